"""The launch of a decode kernel for outputs of certain shapes, planned and checked without a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from convkit.cuda import ArrayView, cdiv, itemsize
from convkit_models.centernet.tasks._device_decode import DecodeLaunch, Step, plan_rows
from convkit_models.centernet.tasks._device_layout import (
    DENSE,
    LAYOUTS,
    cell_step,
    check_output,
    dividers,
    vector_of,
    wanted,
)
from convkit_models.centernet.tasks.ctdet._decode_kernels import FEW, TUNINGS, Tuning, peaks_variant, pro_variant
from convkit_models.centernet.tasks.ctdet._decode_pro import MODE, least_logit

__all__ = ["PACKED_FORM", "Tuning", "plan_decode"]

PACKED_FORM = "tensorrt-pro"
"""The output form of packed rows."""


_PLANES, _CELLS, _PACKED = LAYOUTS.values()


def plan_decode(
    spec: Mapping[str, Any], outputs: Mapping[str, ArrayView], tuning: Tuning | None, *, in_cells: bool = False
) -> DecodeLaunch:
    """Return the launch that decodes these outputs by a decode specification.

    Without a tuning, the number of values decides. With ``in_cells`` heads become rows in the scratch memory
    ``peaks``, for a kernel that goes on: boxes in cells, and the number of the cell in the place of the class.

    Raises:
        KernelArgumentError: an output is missing, or has the wrong shape, dtype or layout, or is too large.
    """
    if spec["form"] == "detections":
        return plan_rows(spec, outputs, "detections")
    names = ("hm", "wh") if spec["form"] == "heads" else ("output",)
    known = wanted(outputs, names, ("reg",))
    first = known[names[0]]
    for name, tensor in known.items():
        check_output(name, tensor, first, rank=4 if spec["form"] == "heads" else 3)
    find = _heads if spec["form"] == "heads" else _packed
    return _peaks_launch(spec, find(spec, known), tuning, in_cells)


class _Maps(NamedTuple):
    """What a launch depends on: the map of peaks, its classes, height and width, its layout, and where values lie."""

    first: ArrayView
    sizes: tuple[int, int, int]
    layout: int
    vector: int
    strides: tuple[int, ...]
    names: tuple[str | None, ...]


def _heads(spec: Mapping[str, Any], outputs: Mapping[str, ArrayView]) -> _Maps:
    hm, wh = outputs["hm"], outputs["wh"]
    batch, classes, height, width = hm.shape
    sizes = 2 * classes if spec["sizes_per_class"] else 2
    hm.check_shape("hm", (batch, len(spec["classes"]), height, width))
    wh.check_shape("wh", (batch, sizes, height, width))
    if "reg" in outputs:
        outputs["reg"].check_shape("reg", (batch, 2, height, width))
    steps = {name: cell_step(name, tensor) for name, tensor in outputs.items()}
    planes = steps["hm"] in (0, 1) and hm.step(1) in (0, height * width)
    if not planes and (hm.step(1) not in (0, 1) or steps["hm"] < classes):
        raise hm.layout_error("hm", DENSE)
    layout = _PLANES if planes else _CELLS
    vector = vector_of(hm, [hm.step(0), math.prod(hm.shape[1:])] if planes else [hm.step(0), classes, steps["hm"]])
    none = ArrayView(wh.shape, wh.strides, wh.dtype)
    reg = outputs.get("reg", none)
    strides = (
        *(hm.step(0), steps["hm"]),
        *(wh.step(0), wh.strides[1], steps["wh"], 2 * wh.strides[1] if spec["sizes_per_class"] else 0),
        *(reg.step(0), reg.strides[1], steps.get("reg", 0)),
    )
    names = ("hm", "wh", "reg" if "reg" in outputs else None)
    return _Maps(hm, (classes, height, width), layout, vector, strides, names)


def _packed(spec: Mapping[str, Any], outputs: Mapping[str, ArrayView]) -> _Maps:
    rows = outputs["output"]
    batch, cells, columns = rows.shape
    classes = len(spec["classes"])
    rows.check_shape("output", (batch, cells, 4 + 2 * classes))
    if rows.step(2) not in (0, 1) or (cells > 1 and rows.step(1) < columns):
        raise rows.layout_error("output", DENSE)
    step = rows.step(1)
    vector = vector_of(rows, [rows.step(0), step, 4, classes])
    strides = (rows.step(0), step, rows.step(0), 1, step, 0, rows.step(0), 1, step)
    return _Maps(rows, (classes, cells, 1), _PACKED, vector, strides, ("output", "output", "output"))


def _peaks_launch(spec: Mapping[str, Any], maps: _Maps, tuning: Tuning | None, in_cells: bool) -> DecodeLaunch:
    hm, sizes, layout, vector, strides, names = maps
    if spec.get("mode") == MODE:
        return _pro_launch(spec, maps, tuning)
    batch, topk = hm.shape[0], spec["topk"]
    vectors = math.prod(sizes) // vector
    tuning = tuning or TUNINGS[batch * vectors > FEW]
    if vectors < 2 * tuning.unroll * tuning.groups * topk:
        tuning = replace(tuning, unroll=1, rounds=1)
    lanes_log = 0
    while lanes_log < 5 and vectors >= (tuning.unroll << (lanes_log + 1)) * tuning.groups * topk:
        lanes_log += 1
    variant = peaks_variant(hm.dtype, layout, vector, tuning, topk, in_cells=in_cells)
    config = variant.launch_config(batch=batch, vectors=vectors).check()
    tiles = config.grid[0] * tuning.threads * tuning.rounds
    keys = cdiv(batch + batch * (tiles >> lanes_log), 2) * 2
    scratch = keys + cdiv(batch * tiles * (itemsize(hm.dtype) + 4), 8)  # per tile a code and an entry of the list
    scalars = (*sizes, *dividers(sizes, vector), topk, lanes_log, *strides)
    memory = {"scratch": ("uint64", scratch)}
    if in_cells:
        memory["peaks"] = ("float32", batch * topk * 6)
    arrays = (*names, "output_to_image", "peaks" if in_cells else "rows", "counts", "scratch")
    return DecodeLaunch(batch, (Step(variant, config, arrays, scalars),), memory, tickets=batch)


def _pro_launch(spec: Mapping[str, Any], maps: _Maps, tuning: Tuning | None) -> DecodeLaunch:
    hm, sizes, layout, _, strides, names = maps
    batch, cells = hm.shape[0], sizes[1] * sizes[2]
    variant = pro_variant(hm.dtype, layout, min(tuning.threads if tuning else 256, 256))
    config = variant.launch_config(batch=batch, threads=cells if layout == _PLANES else 32 * cells).check()
    thresholds = float(least_logit(spec["confidence"])), float(np.float32(spec["nms"]))
    scalars = (*sizes, *dividers(sizes, 1), spec["topk"], *thresholds, *strides)
    step = Step(variant, config, (*names, "output_to_image", "rows", "counts", "scratch"), scalars)
    return DecodeLaunch(batch, (step,), {"scratch": ("uint64", 2 * batch + batch * cells)}, tickets=2 * batch)
