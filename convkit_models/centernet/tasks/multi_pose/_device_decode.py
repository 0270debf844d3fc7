"""The decode of poses on a GPU: heads in two launches, poses that the graph chose in one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convkit import Poses, Result
from convkit.cuda import Argument, ArrayView, Kernel, LaunchConfig, ResourceLimit, Variant, itemsize
from convkit_models.centernet.tasks._device_decode import ROWS, DecodeLaunch, LaunchedDecode, Step, plan_rows
from convkit_models.centernet.tasks._device_layout import (
    DTYPES,
    LAYOUTS,
    cell_step,
    check_output,
    dividers,
    vector_of,
    wanted,
)
from convkit_models.centernet.tasks.ctdet import (
    MOST_ROWS,
    Tuning,
    check_count,
    peaks_variants,
    plan_decode,
    sigmoid,
)
from convkit_models.centernet.tasks.multi_pose._decode import THRESHOLD

__all__ = ["POSES", "CudaPoseDecode", "plan_poses", "poses_variant"]

_THREADS = 256
_MAPS = {"hm": 1, "wh": 2, "reg": 2, "hps": 0, "hm_hp": 0, "hp_offset": 2}
"""The channels of each map; 0 for those that depend on the joints."""

POSES = Kernel(
    name="convkit_poses",
    source=Path(__file__).parent / "kernels" / "poses.cu",
    arguments=(
        *(Argument(name, "T") for name in ("hps", "hm_hp", "hp_offset")),
        Argument("people", "float32"),
        Argument("counts", "int32"),
        Argument("output_to_image", "float64"),
        Argument("rows", "float32", output=True),
        *(Argument(name, "int32", pointer=False) for name in ("height", "width")),
        Argument("width_magic", "uint32", pointer=False),
        *(Argument(name, "int32", pointer=False) for name in ("width_shift", "topk")),
        Argument("least", "float32", pointer=False),
        *(
            Argument(name, "int64" if name.endswith("image") else "int32", pointer=False)
            for name in (
                *("heat_image", "heat_joint", "heat_cell", "hps_image", "hps_axis", "hps_cell"),
                *("offset_image", "offset_axis", "offset_cell"),
            )
        ),
    ),
    sizes=("batch", "joints"),
    launch_config=lambda batch, joints, THREADS: LaunchConfig(  # noqa: N803 - named as the constant
        grid=(joints, batch, 1), block=(THREADS, 1, 1)
    ),
    constants=("T", "LAYOUT", "VECTOR", "THREADS", "CAPACITY"),
    options=("-default-device",),
    limit=ResourceLimit(registers=96, static_smem_bytes=48 * 1024, spill_bytes=0),
)
"""People that were found, and the heads of their joints, to poses in the image."""


class CudaPoseDecode(LaunchedDecode):
    """`PoseDecode` on a GPU, with results that are equal to the bit for equal float32 outputs.

    16-bit outputs are widened to float32 first. Rows are x1, y1, x2, y2, score, x and y of each joint. Of heads there
    may be up to `MOST_ROWS` of them per image.

    Raises:
        KernelArgumentError: the specification asks for more people.
    """

    def __init__(self, spec: Mapping[str, Any], tuning: Tuning | None = None) -> None:
        if spec["form"] == "heads":
            check_count(spec["topk"], "people")
        self._joints = tuple(spec["joints"])
        self._edges = tuple((int(first), int(second)) for first, second in spec["edges"])
        super().__init__(spec, columns=5 + 2 * len(self._joints))
        self._tuning = tuning

    def kernels(self) -> Sequence[Variant]:
        """Return variants for each dtype that the outputs may have, for contiguous maps of whole vectors."""
        if self._spec["form"] == "detections":
            return [ROWS.variant(T=dtype, LABELS=False, THREADS=128) for dtype in DTYPES]
        topk = self._spec["topk"]
        joined = [poses_variant(dtype, LAYOUTS["planes"], 16 // itemsize(dtype), topk) for dtype in DTYPES]
        return [*peaks_variants(_people(self._spec), self._tuning, in_cells=True), *joined]

    def plan(self, outputs: Mapping[str, ArrayView]) -> DecodeLaunch:
        """Return the launch for outputs, which may be any others of these shapes later.

        Raises:
            KernelArgumentError: an output is missing, or has the wrong shape, dtype or layout, or is too large.
        """
        return plan_poses(self._spec, outputs, self._tuning)

    def read(self, results: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the poses of each image from the host's copies of what ``launch`` wrote."""
        return [
            Poses(
                row[:count, :4].copy(),
                row[:count, 4].copy(),
                row[:count, 5:].reshape(count, len(self._joints), 2).copy(),
                self._joints,
                self._edges,
            )
            for row, count, _ in zip(results["rows"], results["counts"], metas, strict=True)
        ]


def plan_poses(spec: Mapping[str, Any], outputs: Mapping[str, ArrayView], tuning: Tuning | None) -> DecodeLaunch:
    """Return the launch that decodes these outputs by a decode specification.

    Without a tuning, the number of values decides how people are searched for.

    Raises:
        KernelArgumentError: an output is missing, or has the wrong shape, dtype or layout, or is too large.
    """
    joints, topk = len(spec["joints"]), spec["topk"]
    if spec["form"] == "detections":
        return plan_rows(spec, outputs, "poses", joints)
    maps = wanted(outputs, ("hm", "wh", "hps"), ("reg", "hm_hp", "hp_offset"))
    if "hm_hp" not in maps:
        maps.pop("hp_offset", None)
    hm = maps["hm"]
    for name, view in maps.items():
        check_output(name, view, hm, rank=4)
    batch, _, height, width = hm.shape
    for name, view in maps.items():
        view.check_shape(name, (batch, _MAPS[name] or joints * (2 if name == "hps" else 1), height, width))
    people = plan_decode(_people(spec), maps, tuning, in_cells=True)
    strides: dict[str, tuple[int, int, int]] = {
        name: (view.step(0), view.step(1), cell_step(name, view)) for name, view in maps.items()
    }
    heat = strides.get("hm_hp", (0, 0, 0))
    planes = heat[2] in (0, 1)
    vector = vector_of(maps["hm_hp"], [*heat[:2], height * width]) if planes and "hm_hp" in maps else 1
    variant = poses_variant(hm.dtype, LAYOUTS["planes" if planes else "cells"], vector, topk)
    arrays = ("hps", *(name if name in maps else None for name in ("hm_hp", "hp_offset")))
    _, _, *by_width = dividers((1, height, width), 1)[:4]
    scalars = (height, width, *by_width, topk, _LEAST, *heat, *strides["hps"], *strides.get("hp_offset", (0, 0, 0)))
    step = Step(
        variant, variant.launch_config(batch=batch, joints=joints).check(),
        (*arrays, "peaks", "counts", "output_to_image", "rows"), scalars,
    )  # fmt: skip
    return DecodeLaunch(batch, (*people.steps, step), people.scratch, people.tickets)


def poses_variant(dtype: str, layout: int, vector: int, topk: int) -> Variant:
    """Return the variant for heat maps of joints of a dtype and layout, read in vectors of ``vector`` values."""
    capacity = 1024 if topk <= 1024 else MOST_ROWS
    return POSES.variant(T=dtype, LAYOUT=layout, VECTOR=vector, THREADS=_THREADS, CAPACITY=capacity)


def _people(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification by which the boxes of people are found."""
    return {"form": "heads", "topk": spec["topk"], "stride": spec["stride"], "sizes_per_class": False, "classes": ("",)}


def _least() -> float:
    """Return the lowest logit whose score exceeds the threshold: scores rise with logits, also as they are rounded."""
    logit = np.float32(math.log(THRESHOLD / (1 - THRESHOLD)))
    while sigmoid(np.array([logit]))[0] > np.float32(THRESHOLD):
        logit = np.nextafter(logit, np.float32(-np.inf))
    while not sigmoid(np.array([logit]))[0] > np.float32(THRESHOLD):
        logit = np.nextafter(logit, np.float32(np.inf))
    return float(logit)


_LEAST = _least()
