"""The launch of a decode kernel for outputs of certain shapes, planned and checked without a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convkit.cuda import ArrayView, LaunchConfig, Variant, cdiv, itemsize
from convkit.errors import KernelArgumentError
from convkit_models.centernet.tasks.ctdet._decode_kernels import (
    DTYPES,
    FEW,
    LAYOUTS,
    ROWS,
    TUNINGS,
    Tuning,
    peaks_variant,
    pro_variant,
)
from convkit_models.centernet.tasks.ctdet._decode_pro import MODE, least_logit

__all__ = ["PACKED_FORM", "DecodeLaunch", "Tuning"]

PACKED_FORM = "tensorrt-pro"
"""The output form of packed rows."""


_PLANES, _CELLS, _PACKED = LAYOUTS.values()
_MARGIN = 2**25  # values by which the indices of the last block may exceed a map
_DENSE = "Make it contiguous; maps may also be channels-last."


@dataclass(frozen=True)
class DecodeLaunch:
    """The launch that decodes outputs of certain shapes, for any batch of these shapes.

    ``inputs`` are the names of the outputs that are the first arguments, None for a null pointer. ``scratch`` is the
    size of the scratch memory in uint64, 0 for none; the first ``tickets`` of them must be 0 before a launch, and are 0
    after it.
    """

    variant: Variant
    config: LaunchConfig
    inputs: tuple[str | None, ...]
    scratch: int
    tickets: int
    scalars: tuple[int | float, ...]
    batch: int

    @classmethod
    def plan(cls, spec: Mapping[str, Any], outputs: Mapping[str, ArrayView], tuning: Tuning | None) -> DecodeLaunch:
        """Return the launch that decodes these outputs by a decode specification.

        Without a tuning, the number of values decides.

        Raises:
            KernelArgumentError: an output is missing, or has the wrong shape, dtype or layout, or is too large.
        """
        names = {"heads": ("hm", "wh"), PACKED_FORM: ("output",), "detections": ("detections",)}[spec["form"]]
        for name in names:
            if name not in outputs:
                raise KernelArgumentError(
                    f"The output {name!r} is missing; there are {', '.join(map(repr, outputs)) or 'none'}."
                )
        known = {name: outputs[name] for name in (*names, "reg") if name in outputs}
        first = known[names[0]]
        for name, tensor in known.items():
            _check(name, tensor, first, rank=4 if spec["form"] == "heads" else 3)
        build = {"heads": _heads, PACKED_FORM: _packed, "detections": _rows}[spec["form"]]
        return build(spec, known, tuning)


def _heads(spec: Mapping[str, Any], outputs: Mapping[str, ArrayView], tuning: Tuning | None) -> DecodeLaunch:
    hm, wh = outputs["hm"], outputs["wh"]
    batch, classes, height, width = hm.shape
    sizes = 2 * classes if spec["sizes_per_class"] else 2
    hm.check_shape("hm", (batch, len(spec["classes"]), height, width))
    wh.check_shape("wh", (batch, sizes, height, width))
    if "reg" in outputs:
        outputs["reg"].check_shape("reg", (batch, 2, height, width))
    steps = {name: _cell_step(name, tensor) for name, tensor in outputs.items()}
    planes = steps["hm"] in (0, 1) and hm.step(1) in (0, height * width)
    if not planes and (hm.step(1) not in (0, 1) or steps["hm"] < classes):
        raise hm.layout_error("hm", _DENSE)
    layout = _PLANES if planes else _CELLS
    vector = _vector(hm, [hm.step(0), math.prod(hm.shape[1:])] if planes else [hm.step(0), classes, steps["hm"]])
    none = ArrayView(wh.shape, wh.strides, wh.dtype)
    reg = outputs.get("reg", none)
    strides = (
        *(hm.step(0), steps["hm"]),
        *(wh.step(0), wh.strides[1], steps["wh"], 2 * wh.strides[1] if spec["sizes_per_class"] else 0),
        *(reg.step(0), reg.strides[1], steps.get("reg", 0)),
    )
    names = ("hm", "wh", "reg" if "reg" in outputs else None)
    return _peaks_launch(spec, hm, (classes, height, width), layout, vector, strides, names, tuning)


def _packed(spec: Mapping[str, Any], outputs: Mapping[str, ArrayView], tuning: Tuning | None) -> DecodeLaunch:
    rows = outputs["output"]
    batch, cells, columns = rows.shape
    classes = len(spec["classes"])
    rows.check_shape("output", (batch, cells, 4 + 2 * classes))
    if rows.step(2) not in (0, 1) or (cells > 1 and rows.step(1) < columns):
        raise rows.layout_error("output", _DENSE)
    step = rows.step(1)
    vector = _vector(rows, [rows.step(0), step, 4, classes])
    strides = (rows.step(0), step, rows.step(0), 1, step, 0, rows.step(0), 1, step)
    names = ("output", "output", "output")
    return _peaks_launch(spec, rows, (classes, cells, 1), _PACKED, vector, strides, names, tuning)


def _rows(spec: Mapping[str, Any], outputs: Mapping[str, ArrayView], tuning: Tuning | None) -> DecodeLaunch:
    rows = outputs["detections"]
    rows.check_shape("detections", (rows.shape[0], spec["topk"], 6))
    variant = ROWS.variant(T=rows.dtype, THREADS=32 if tuning and tuning.threads < 128 else 128)
    scalars = (spec["topk"], float(spec["stride"]), rows.step(0), rows.step(1), rows.step(2))
    config = variant.launch_config(batch=rows.shape[0]).check()
    return DecodeLaunch(variant, config, ("detections",), 0, 0, scalars, rows.shape[0])


def _peaks_launch(
    spec: Mapping[str, Any],
    hm: ArrayView,
    sizes: tuple[int, int, int],
    layout: int,
    vector: int,
    strides: tuple[int, ...],
    names: tuple[str | None, ...],
    tuning: Tuning | None,
) -> DecodeLaunch:
    if spec.get("mode") == MODE:
        return _pro_launch(spec, hm, sizes, layout, strides, names, tuning)
    batch, topk = hm.shape[0], spec["topk"]
    vectors = math.prod(sizes) // vector
    tuning = tuning or TUNINGS[batch * vectors > FEW]
    if vectors < 2 * tuning.unroll * tuning.groups * topk:
        tuning = replace(tuning, unroll=1, rounds=1)
    lanes_log = 0
    while lanes_log < 5 and vectors >= (tuning.unroll << (lanes_log + 1)) * tuning.groups * topk:
        lanes_log += 1
    variant = peaks_variant(hm.dtype, layout, vector, tuning, topk)
    config = variant.launch_config(batch=batch, vectors=vectors).check()
    tiles = config.grid[0] * tuning.threads * tuning.rounds
    keys = cdiv(batch + batch * (tiles >> lanes_log), 2) * 2
    scratch = keys + cdiv(batch * tiles * (itemsize(hm.dtype) + 4), 8)  # per tile a code and an entry of the list
    scalars = (*sizes, *_dividers(sizes, vector), topk, lanes_log, *strides)
    return DecodeLaunch(variant, config, names, scratch, batch, scalars, batch)


def _dividers(sizes: tuple[int, int, int], vector: int) -> list[int]:
    """Return multipliers and shifts that divide numbers below 2^31 by cells, width, and vectors of a cell."""
    classes, height, width = sizes
    found = []
    for divisor in (height * width, width, max(1, classes // vector)):
        shift = 31 + (divisor - 1).bit_length()
        found += [cdiv(1 << shift, divisor), shift]
    return found


def _pro_launch(
    spec: Mapping[str, Any],
    hm: ArrayView,
    sizes: tuple[int, int, int],
    layout: int,
    strides: tuple[int, ...],
    names: tuple[str | None, ...],
    tuning: Tuning | None,
) -> DecodeLaunch:
    batch, cells = hm.shape[0], sizes[1] * sizes[2]
    variant = pro_variant(hm.dtype, layout, min(tuning.threads if tuning else 256, 256))
    config = variant.launch_config(batch=batch, threads=cells if layout == _PLANES else 32 * cells).check()
    thresholds = float(least_logit(spec["confidence"])), float(np.float32(spec["nms"]))
    scalars = (*sizes, *_dividers(sizes, 1), spec["topk"], *thresholds, *strides)
    return DecodeLaunch(variant, config, names, 2 * batch + batch * cells, 2 * batch, scalars, batch)


def _vector(tensor: ArrayView, numbers: Sequence[int]) -> int:
    """Return the number of values of one load: the address and each of the numbers are multiples of it."""
    size = itemsize(tensor.dtype)
    vector = 16 // size
    while any(number % vector for number in numbers) or tensor.address % (vector * size):
        vector //= 2
    return vector


def _cell_step(name: str, tensor: ArrayView) -> int:
    """Return the distance in elements of two neighbours in a map, which must be the same from a row to the next."""
    _, _, height, width = tensor.shape
    step = tensor.strides[3] if width > 1 else tensor.strides[2]
    if height * width == 1:
        return 0
    if height > 1 and tensor.strides[2] != width * step:
        raise tensor.layout_error(name, _DENSE)
    return step


def _check(name: str, tensor: ArrayView, first: ArrayView, *, rank: int) -> None:
    """Check one output; dtype and device must be those of the ``first`` one."""
    if len(tensor.shape) != rank or 0 in tensor.shape:
        raise KernelArgumentError(f"{name!r} has the shape {list(tensor.shape)}; it needs {rank} axes, none empty.")
    if tensor.dtype not in DTYPES:
        raise KernelArgumentError(f"{name!r} is {tensor.dtype}; the GPU decodes {', '.join(DTYPES)}.")
    if tensor.dtype != first.dtype or tensor.device != first.device:
        raise KernelArgumentError(
            f"{name!r} is {tensor.dtype} on device {tensor.device}, another output {first.dtype} on {first.device}."
        )
    if min(tensor.strides) < 0:
        raise tensor.layout_error(name, _DENSE)
    if max(tensor.extent(1), math.prod(tensor.shape[1:])) >= 2**31 - _MARGIN or tensor.shape[0] > 65535:
        raise KernelArgumentError(f"{name!r} is too large for 32-bit indices: its shape is {list(tensor.shape)}.")
