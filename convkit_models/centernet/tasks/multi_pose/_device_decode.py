"""The decode on a GPU of poses that the graph chose: rows to poses in the image, in one launch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from convkit import Poses, Result
from convkit.cuda import Argument, ArrayView, Kernel, LaunchConfig, ResourceLimit, Variant, load
from convkit.errors import KernelArgumentError
from convkit.processing import ArraySpec
from convkit_models.centernet._geometry import affine

__all__ = ["DTYPES", "POSE_ROWS", "CudaPoseDecode", "launch_arguments"]

DTYPES = ("float32", "float16", "bfloat16")
"""The dtypes of rows that the GPU decodes."""
_THREADS = 128
_MOST_VALUES = 2**31 - 2**16

POSE_ROWS = Kernel(
    name="convkit_pose_rows",
    source=Path(__file__).parent / "kernels" / "pose_rows.cu",
    arguments=(
        Argument("poses", "T"),
        Argument("output_to_image", "float64"),
        Argument("rows", "float32", output=True),
        Argument("counts", "int32", output=True),
        *(Argument(name, "int32", pointer=False) for name in ("topk", "joints")),
        Argument("stride", "float32", pointer=False),
        Argument("image_step", "int64", pointer=False),
        *(Argument(name, "int32", pointer=False) for name in ("row_step", "column_step")),
    ),
    sizes=("batch",),
    launch_config=lambda batch, THREADS: LaunchConfig(grid=(batch, 1, 1), block=(THREADS, 1, 1)),  # noqa: N803
    constants=("T", "THREADS"),
    limit=ResourceLimit(registers=64, static_smem_bytes=1024, spill_bytes=0),
)
"""Rows of poses in input pixels to poses in the image."""


class CudaPoseDecode:
    """`PoseDecode` of the form ``detections`` on a GPU, with results that are equal to the bit for equal float32 rows.

    16-bit rows are widened to float32 first.
    """

    inputs = (ArraySpec("output_to_image", (8,), "float64"),)

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        self._joints = tuple(spec["joints"])
        self._edges = tuple((int(first), int(second)) for first, second in spec["edges"])
        columns = 5 + 2 * len(self._joints)
        self.results = (ArraySpec("rows", (spec["topk"], columns), "float32"), ArraySpec("counts", (), "int32"))
        self._matrix = lru_cache(maxsize=256)(self._new_matrix)

    def kernels(self) -> Sequence[Variant]:
        """Return a variant for each dtype that the rows may have."""
        return [POSE_ROWS.variant(T=dtype, THREADS=_THREADS) for dtype in DTYPES]

    def values(self, meta: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Return ``output_to_image``: the 2 x 3 matrix from output map to image, the width of the map, and 0."""
        return {"output_to_image": self._matrix(*meta["center"], meta["scale"], *meta["input"])}

    def launch(
        self, outputs: Mapping[str, Any], inputs: Mapping[str, Any], results: Mapping[str, Any], stream: int
    ) -> None:
        """Write ``rows`` (x1, y1, x2, y2, score, then x and y of each joint) and ``counts`` on the stream.

        Rows beyond the count are 0.

        Raises:
            KernelArgumentError: an array has the wrong dtype, device, shape or layout, or is too large.
        """
        poses = ArrayView.of("poses", outputs["poses"])
        variant, config, scalars = launch_arguments(self._spec, poses)
        arrays = [ArrayView.of(each.name, inputs[each.name]) for each in self.inputs]
        arrays += [ArrayView.of(each.name, results[each.name]) for each in self.results]
        for spec, view in zip((*self.inputs, *self.results), arrays, strict=True):
            view.check_contiguous(spec.name, (poses.shape[0], *spec.shape))
        load(variant)(config, poses, *arrays, *scalars, stream=stream)

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

    def _new_matrix(self, x: float, y: float, scale: float, height: int, width: int) -> np.ndarray:
        size = (width // self._spec["stride"], height // self._spec["stride"])
        return np.array([*affine((x, y), scale, size, inverse=True).reshape(6), size[0], 0])


def launch_arguments(
    spec: Mapping[str, Any], poses: ArrayView
) -> tuple[Variant, LaunchConfig, tuple[int | float, ...]]:
    """Return variant, launch configuration and scalars for rows of poses, for any batch of their shape.

    Raises:
        KernelArgumentError: the rows have the wrong shape or dtype, or are too large.
    """
    joints = len(spec["joints"])
    if len(poses.shape) != 3 or 0 in poses.shape:
        raise KernelArgumentError(f"'poses' has the shape {list(poses.shape)}; it needs 3 axes, none empty.")
    poses.check_shape("poses", (poses.shape[0], spec["topk"], 6 + 2 * joints))
    if poses.dtype not in DTYPES:
        raise KernelArgumentError(f"'poses' is {poses.dtype}; the GPU decodes {', '.join(DTYPES)}.")
    if min(poses.strides) < 0:
        raise poses.layout_error("poses", "Make it contiguous.")
    if max(poses.extent(1), math.prod(poses.shape[1:])) >= _MOST_VALUES:
        raise KernelArgumentError(f"'poses' is too large for 32-bit indices: its shape is {list(poses.shape)}.")
    variant = POSE_ROWS.variant(T=poses.dtype, THREADS=_THREADS)
    scalars = (spec["topk"], joints, float(spec["stride"]), poses.step(0), poses.step(1), poses.step(2))
    return variant, variant.launch_config(batch=poses.shape[0]).check(), scalars
