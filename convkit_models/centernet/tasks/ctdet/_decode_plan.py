"""What a launch of the decoding kernels takes, worked out and checked from the outputs' shapes without a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convkit.cuda import LaunchConfig, Variant, cdiv, itemsize
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

__all__ = ["Call", "Tensor", "Tuning"]

_PLANES, _CELLS, _TUTORIAL = LAYOUTS.values()
_MARGIN = 2**25  # values that the threads of the last block may count past the end of a map


@dataclass(frozen=True)
class Tensor:
    """What a launch needs to know of an array: ``strides`` count elements, ``device`` is the GPU's number."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    address: int
    device: int = 0

    @classmethod
    def of(cls, name: str, value: Any) -> Tensor:
        """Return the description of a torch tensor or cupy array on a GPU.

        Raises:
            KernelArgumentError: it is neither, or not on a GPU.
        """
        if hasattr(value, "data_ptr"):
            if not value.is_cuda:
                raise KernelArgumentError(f"{name!r} is on {value.device}, not on a GPU.")
            dtype = str(value.dtype).removeprefix("torch.")
            return cls(tuple(value.shape), tuple(value.stride()), dtype, value.data_ptr(), value.get_device())
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is None:
            raise KernelArgumentError(
                f"{name!r} is a {type(value).__name__}, no array on a GPU.", hint="Give a torch tensor or a cupy array."
            )
        dtype = np.dtype(interface["typestr"])
        shape = tuple(interface["shape"])
        steps = interface.get("strides") or tuple(
            math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape))
        )
        strides = tuple(step // dtype.itemsize for step in steps)
        device = getattr(getattr(value, "device", None), "id", 0)
        return cls(shape, strides, dtype.name, int(interface["data"][0] or 0), device)

    def step(self, axis: int) -> int:
        """Return the stride of an axis, 0 where it has one entry only."""
        return self.strides[axis] if self.shape[axis] > 1 else 0

    def check_contiguous(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `KernelArgumentError` unless the array is contiguous and has that shape."""
        _check_shape(name, self, shape)
        expected = 1
        for axis in reversed(range(len(shape))):
            if self.step(axis) not in (0, expected):
                raise _strided(name, self)
            expected *= shape[axis]

    def extent(self) -> int:
        """Return how far apart, in elements, first and last of one image are."""
        return sum(self.step(axis) * (self.shape[axis] - 1) for axis in range(1, len(self.shape)))


@dataclass(frozen=True)
class Call:
    """One launch for outputs of certain shapes: what stays the same from batch to batch.

    ``inputs`` names the output that each pointer at the front of the arguments is, None for a null pointer; ``scratch``
    is the number of uint64 that the launch needs, 0 for none; they must be 0 before the first launch.
    """

    variant: Variant
    launch: LaunchConfig
    inputs: tuple[str | None, ...]
    scratch: int
    scalars: tuple[int | float, ...]
    batch: int

    @classmethod
    def plan(cls, spec: Mapping[str, Any], outputs: Mapping[str, Tensor], tuning: Tuning | None) -> Call:
        """Return the launch that decodes these outputs by a decode specification.

        Without a tuning, the one for the number of values is taken.

        Raises:
            KernelArgumentError: an output is missing, or has the wrong shape, dtype or layout, or is too large.
        """
        names = {"heads": ("hm", "wh"), "tutorial": ("output",), "detections": ("detections",)}[spec["form"]]
        for name in names:
            if name not in outputs:
                raise KernelArgumentError(
                    f"The output {name!r} is missing; there are {', '.join(map(repr, outputs)) or 'none'}."
                )
        known = {name: outputs[name] for name in (*names, "reg") if name in outputs}
        first = known[names[0]]
        for name, tensor in known.items():
            _check(name, tensor, first, rank=4 if spec["form"] == "heads" else 3)
        build = {"heads": _heads, "tutorial": _tutorial, "detections": _rows}[spec["form"]]
        return build(spec, known, tuning)


def _heads(spec: Mapping[str, Any], outputs: Mapping[str, Tensor], tuning: Tuning | None) -> Call:
    hm, wh = outputs["hm"], outputs["wh"]
    batch, classes, height, width = hm.shape
    sizes = 2 * classes if spec["sizes_per_class"] else 2
    _check_shape("hm", hm, (batch, len(spec["classes"]), height, width))
    _check_shape("wh", wh, (batch, sizes, height, width))
    if "reg" in outputs:
        _check_shape("reg", outputs["reg"], (batch, 2, height, width))
    steps = {name: _cell_step(name, tensor) for name, tensor in outputs.items()}
    planes = steps["hm"] in (0, 1) and hm.step(1) in (0, height * width)
    if not planes and (hm.step(1) not in (0, 1) or steps["hm"] < classes):
        raise _strided("hm", hm)
    layout = _PLANES if planes else _CELLS
    vector = _vector(hm, [hm.step(0), math.prod(hm.shape[1:])] if planes else [hm.step(0), classes, steps["hm"]])
    none = Tensor(wh.shape, wh.strides, wh.dtype, 0)
    reg = outputs.get("reg", none)
    strides = (
        *(hm.step(0), steps["hm"]),
        *(wh.step(0), wh.strides[1], steps["wh"], 2 * wh.strides[1] if spec["sizes_per_class"] else 0),
        *(reg.step(0), reg.strides[1], steps.get("reg", 0)),
    )
    names = ("hm", "wh", "reg" if "reg" in outputs else None)
    return _peak_call(spec, hm, (classes, height, width), layout, vector, strides, names, tuning)


def _tutorial(spec: Mapping[str, Any], outputs: Mapping[str, Tensor], tuning: Tuning | None) -> Call:
    rows = outputs["output"]
    batch, cells, columns = rows.shape
    classes = len(spec["classes"])
    _check_shape("output", rows, (batch, cells, 4 + 2 * classes))
    if rows.step(2) not in (0, 1) or (cells > 1 and rows.step(1) < columns):
        raise _strided("output", rows)
    step = rows.step(1)
    vector = _vector(rows, [rows.step(0), step, 4, classes])
    strides = (rows.step(0), step, rows.step(0), 1, step, 0, rows.step(0), 1, step)
    names = ("output", "output", "output")
    return _peak_call(spec, rows, (classes, cells, 1), _TUTORIAL, vector, strides, names, tuning)


def _rows(spec: Mapping[str, Any], outputs: Mapping[str, Tensor], tuning: Tuning | None) -> Call:
    rows = outputs["detections"]
    _check_shape("detections", rows, (rows.shape[0], spec["topk"], 6))
    variant = ROWS.variant(T=rows.dtype, THREADS=32 if tuning and tuning.threads < 128 else 128)
    scalars = (spec["topk"], float(spec["stride"]), rows.step(0), rows.step(1), rows.step(2))
    launch = variant.launch_config(batch=rows.shape[0]).check()
    return Call(variant, launch, ("detections",), 0, scalars, rows.shape[0])


def _peak_call(
    spec: Mapping[str, Any],
    hm: Tensor,
    sizes: tuple[int, int, int],
    layout: int,
    vector: int,
    strides: tuple[int, ...],
    names: tuple[str | None, ...],
    tuning: Tuning | None,
) -> Call:
    if spec.get("mode") == MODE:
        return _pro_call(spec, hm, sizes, layout, strides, names, tuning)
    batch, topk = hm.shape[0], spec["topk"]
    vectors = math.prod(sizes) // vector
    tuning = tuning or TUNINGS[batch * vectors > FEW]
    if vectors < 2 * tuning.unroll * tuning.groups * topk:
        tuning = replace(tuning, unroll=1, rounds=1)
    lanes_log = 0
    while lanes_log < 5 and vectors >= (tuning.unroll << (lanes_log + 1)) * tuning.groups * topk:
        lanes_log += 1
    variant = peaks_variant(hm.dtype, layout, vector, tuning, topk)
    launch = variant.launch_config(batch=batch, vectors=vectors).check()
    tiles = launch.grid[0] * tuning.threads * tuning.rounds
    keys = cdiv(batch + batch * (tiles >> lanes_log), 2) * 2
    scratch = keys + cdiv(batch * tiles * (itemsize(hm.dtype) + 4), 8)  # a code and a place in the list for each tile
    scalars = (*sizes, *_dividers(sizes, vector), topk, lanes_log, *strides)
    return Call(variant, launch, names, scratch, scalars, batch)


def _dividers(sizes: tuple[int, int, int], vector: int) -> list[int]:
    """Return multiplier and shift that divide numbers below 2^31 by cells, width, and vectors of a cell."""
    classes, height, width = sizes
    found = []
    for divisor in (height * width, width, max(1, classes // vector)):
        shift = 31 + (divisor - 1).bit_length()
        found += [cdiv(1 << shift, divisor), shift]
    return found


def _pro_call(
    spec: Mapping[str, Any],
    hm: Tensor,
    sizes: tuple[int, int, int],
    layout: int,
    strides: tuple[int, ...],
    names: tuple[str | None, ...],
    tuning: Tuning | None,
) -> Call:
    batch, cells = hm.shape[0], sizes[1] * sizes[2]
    variant = pro_variant(hm.dtype, layout, min(tuning.threads if tuning else 256, 256))
    launch = variant.launch_config(batch=batch, threads=cells if layout == _PLANES else 32 * cells).check()
    thresholds = float(least_logit(spec["confidence"])), float(np.float32(spec["nms"]))
    scalars = (*sizes, *_dividers(sizes, 1), spec["topk"], *thresholds, *strides)
    return Call(variant, launch, names, 2 * batch + batch * cells, scalars, batch)


def _vector(tensor: Tensor, numbers: Sequence[int]) -> int:
    """Return how many values one load may take, where the address and each of the numbers are multiples of it."""
    size = itemsize(tensor.dtype)
    vector = 16 // size
    while any(number % vector for number in numbers) or tensor.address % (vector * size):
        vector //= 2
    return vector


def _cell_step(name: str, tensor: Tensor) -> int:
    """Return how many elements two neighbours of a map are apart; a row follows the other in the same way."""
    _, _, height, width = tensor.shape
    step = tensor.strides[3] if width > 1 else tensor.strides[2]
    if height * width == 1:
        return 0
    if height > 1 and tensor.strides[2] != width * step:
        raise _strided(name, tensor)
    return step


def _check(name: str, tensor: Tensor, first: Tensor, *, rank: int) -> None:
    """Check what holds for every output; ``first`` is the one that the others must agree with."""
    if len(tensor.shape) != rank or 0 in tensor.shape:
        raise KernelArgumentError(f"{name!r} has the shape {list(tensor.shape)}; it needs {rank} axes, none empty.")
    if tensor.dtype not in DTYPES:
        raise KernelArgumentError(f"{name!r} is {tensor.dtype}; the GPU decodes {', '.join(DTYPES)}.")
    if tensor.dtype != first.dtype or tensor.device != first.device:
        raise KernelArgumentError(
            f"{name!r} is {tensor.dtype} on device {tensor.device}, another output {first.dtype} on {first.device}."
        )
    if min(tensor.strides) < 0:
        raise _strided(name, tensor)
    if max(tensor.extent(), math.prod(tensor.shape[1:])) >= 2**31 - _MARGIN or tensor.shape[0] > 65535:
        raise KernelArgumentError(f"{name!r} is too large for 32-bit indices: its shape is {list(tensor.shape)}.")


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise KernelArgumentError(f"{name!r} has the shape {list(tensor.shape)}; expected {list(expected)}.")


def _strided(name: str, tensor: Tensor) -> KernelArgumentError:
    return KernelArgumentError(
        f"{name!r} of shape {list(tensor.shape)} has the strides {list(tensor.strides)}.",
        hint="Make it contiguous; maps may be channels-last, too.",
    )
