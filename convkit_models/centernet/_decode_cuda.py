"""The decoding on a GPU: heads, tutorial tensor or detections to boxes in the image, in one launch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convkit import Detections
from convkit.errors import KernelArgumentError
from convkit.kernels import Argument, Bound, Kernel, Launch, Variant, cdiv, itemsize, load
from convkit_models.centernet._geometry import affine

__all__ = ["MOST_ROWS", "Call", "CudaDecode", "Tensor", "Tuning", "decode_variants"]

MOST_ROWS = 2048
"""The largest K: the keys of so many peaks fit into the shared memory that every GPU gives a block."""

_DTYPES = ("float32", "float16", "bfloat16")
_KERNELS = Path(__file__).parent / "kernels"
_PLANES, _CELLS, _TUTORIAL = range(3)
_MARGIN = 2**21  # vectors that the threads of the last block may count past the end of a map

PEAKS = Kernel(
    name="convkit_ctdet",
    source=_KERNELS / "ctdet.cu",
    arguments=(
        Argument("hm", "T"),
        Argument("wh", "T"),
        Argument("reg", "T"),
        Argument("back", "float64"),
        Argument("results", "float32", output=True),
        Argument("counts", "int32", output=True),
        Argument("scratch", "uint64", output=True, alignment=16),
        *(Argument(name, "int32", pointer=False) for name in ("classes", "height", "width", "topk", "lanes_log")),
        Argument("hm_image", "int64", pointer=False),
        Argument("hm_cell", "int32", pointer=False),
        Argument("wh_image", "int64", pointer=False),
        *(Argument(name, "int32", pointer=False) for name in ("wh_axis", "wh_cell", "wh_class")),
        Argument("reg_image", "int64", pointer=False),
        *(Argument(name, "int32", pointer=False) for name in ("reg_axis", "reg_cell")),
    ),
    sizes=("batch", "vectors"),
    geometry=lambda batch, vectors, THREADS, UNROLL: Launch(  # noqa: N803 - named as constants
        grid=(cdiv(vectors, THREADS * UNROLL), batch, 1), block=(THREADS, 1, 1)
    ),
    constants=("T", "LAYOUT", "VECTOR", "UNROLL", "THREADS", "CAPACITY"),
    options=("-default-device",),
    bound=Bound(registers=80, shared=48 * 1024, spills=0),
)
"""Peaks of a heat map to boxes."""

ROWS = Kernel(
    name="convkit_ctdet_rows",
    source=_KERNELS / "rows.cu",
    arguments=(
        Argument("detections", "T"),
        Argument("back", "float64"),
        Argument("results", "float32", output=True),
        Argument("counts", "int32", output=True),
        Argument("topk", "int32", pointer=False),
        Argument("stride", "float32", pointer=False),
        Argument("image_step", "int64", pointer=False),
        *(Argument(name, "int32", pointer=False) for name in ("row_step", "column_step")),
    ),
    sizes=("batch",),
    geometry=lambda batch, THREADS: Launch(grid=(batch, 1, 1), block=(THREADS, 1, 1)),  # noqa: N803
    constants=("T", "THREADS"),
    bound=Bound(registers=64, shared=1024, spills=0),
)
"""Decoded rows to boxes in the image."""


@dataclass(frozen=True)
class Tuning:
    """What decides how the work is shared out; no result depends on it.

    ``threads`` of a block, ``unroll`` vectors of a thread, and ``groups``: a map is divided into at least that many
    times K groups of cells, as far as a group has one lane or more.
    """

    threads: int = 256
    unroll: int = 4
    groups: int = 4


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
    launch: Launch
    inputs: tuple[str | None, ...]
    scratch: int
    scalars: tuple[int | float, ...]
    batch: int

    @classmethod
    def plan(cls, spec: Mapping[str, Any], outputs: Mapping[str, Tensor], tuning: Tuning) -> Call:
        """Return the launch that decodes these outputs by a decode specification.

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


class CudaDecode:
    """`CtdetDecode` on a GPU, with the same results to the bit for the same float32 heads.

    16-bit outputs are widened to float32 first. There may be up to `MOST_ROWS` detections an image. An object serves
    one stream at a time, because its scratch memory belongs to the launch that is running.
    """

    def __init__(self, spec: Mapping[str, Any], tuning: Tuning | None = None) -> None:
        if spec["topk"] > MOST_ROWS:
            raise KernelArgumentError(
                f"On a GPU there are at most {MOST_ROWS} detections an image, not {spec['topk']}.",
                hint="Decode on the host, or ask for fewer.",
            )
        self.rows: int = spec["topk"]
        self._spec = spec
        self._tuning = tuning or Tuning()
        self._calls: dict[Any, tuple[Call, Any, Any]] = {}

    def kernels(self) -> Sequence[Variant]:
        """Return a variant for each dtype that the outputs may have, with contiguous maps of whole vectors."""
        if self._spec["form"] == "detections":
            return [ROWS.variant(T=dtype, THREADS=128) for dtype in _DTYPES]
        layout = _TUTORIAL if self._spec["form"] == "tutorial" else _PLANES
        classes = len(self._spec["classes"])
        found = []
        for dtype in _DTYPES:
            vector = 16 // itemsize(dtype)
            while layout == _TUTORIAL and any(number % vector for number in (4, classes, 4 + 2 * classes)):
                vector //= 2
            found.append(_peaks(dtype, layout, vector, self._tuning.unroll, self._tuning.threads, self.rows))
        return found

    def back(self, meta: Mapping[str, Any]) -> np.ndarray:
        """Return float64 [8]: the 2 x 3 matrix from output map to image, the width of the map, and 0."""
        height, width = meta["input"]
        size = (width // self._spec["stride"], height // self._spec["stride"])
        matrix = affine(meta["center"], meta["scale"], size, inverse=True)
        return np.array([*matrix.reshape(6), size[0], 0])

    def launch(self, outputs: Mapping[str, Any], back: Any, results: Any, counts: Any, stream: int) -> None:
        """Write ``results`` float32 [B, rows, 6] (x1, y1, x2, y2, score, class) and ``counts`` int32 [B].

        Rows beyond the count are 0. ``outputs`` are torch tensors or cupy arrays of float32, float16 or bfloat16,
        contiguous or channels-last; ``back`` is float64 [B, 8]; results, counts and back are contiguous. The first
        launch for a batch and size compiles, allocates and waits; those after it may be captured in a CUDA graph.

        Raises:
            KernelArgumentError: an argument has the wrong dtype, device, shape or layout, or is too large.
        """
        tensors = {name: Tensor.of(name, value) for name, value in outputs.items()}
        # all that a plan depends on: of the addresses only how far they are aligned
        key = tuple((name, t.shape, t.strides, t.dtype, t.device, t.address % 16) for name, t in tensors.items())
        if key not in self._calls:
            call = Call.plan(self._spec, tensors, self._tuning)
            self._calls[key] = call, load(call.variant), _zeros(call.scratch)
        call, launcher, scratch = self._calls[key]
        for name, value, shape in (
            ("back", back, (call.batch, 8)),
            ("results", results, (call.batch, self.rows, 6)),
            ("counts", counts, (call.batch,)),
        ):
            _check_contiguous(name, Tensor.of(name, value), shape)
        arrays = [0 if name is None else outputs[name] for name in call.inputs]
        memory = () if scratch is None else (scratch,)
        launcher(call.launch, *arrays, back, results, counts, *memory, *call.scalars, stream=stream)

    def results(self, rows: np.ndarray, counts: np.ndarray) -> list[Detections]:
        """Return the detections of each image from the host's copies of what ``launch`` wrote."""
        classes = tuple(self._spec["classes"])
        return [
            Detections(row[:count, :4].copy(), row[:count, 4].copy(), row[:count, 5].astype(np.int64), classes)
            for row, count in zip(rows, counts, strict=True)
        ]


def decode_variants() -> list[Variant]:
    """Return variants that between them hold every path of the kernels: dtypes, layouts, vectors and sizes of lists."""
    found = [_peaks(dtype, layout, 16 // itemsize(dtype), 4, 256, 100) for dtype in _DTYPES for layout in range(3)]
    found += [_peaks(dtype, layout, 1, 4, 256, 100) for dtype in _DTYPES for layout in range(3)]
    found += [_peaks("float16", layout, 4, 4, 256, 1000) for layout in range(3)]
    return [*found, *(ROWS.variant(T=dtype, THREADS=128) for dtype in _DTYPES)]


def _peaks(dtype: str, layout: int, vector: int, unroll: int, threads: int, topk: int) -> Variant:
    capacity = 1024 if topk <= 512 else MOST_ROWS
    return PEAKS.variant(T=dtype, LAYOUT=layout, VECTOR=vector, UNROLL=unroll, THREADS=threads, CAPACITY=capacity)


def _heads(spec: Mapping[str, Any], outputs: Mapping[str, Tensor], tuning: Tuning) -> Call:
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


def _tutorial(spec: Mapping[str, Any], outputs: Mapping[str, Tensor], tuning: Tuning) -> Call:
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


def _rows(spec: Mapping[str, Any], outputs: Mapping[str, Tensor], tuning: Tuning) -> Call:
    rows = outputs["detections"]
    _check_shape("detections", rows, (rows.shape[0], spec["topk"], 6))
    variant = ROWS.variant(T=rows.dtype, THREADS=128 if tuning.threads >= 128 else 32)
    scalars = (spec["topk"], float(spec["stride"]), rows.step(0), rows.step(1), rows.step(2))
    launch = variant.geometry(batch=rows.shape[0]).check()
    return Call(variant, launch, ("detections",), 0, scalars, rows.shape[0])


def _peak_call(
    spec: Mapping[str, Any],
    hm: Tensor,
    sizes: tuple[int, int, int],
    layout: int,
    vector: int,
    strides: tuple[int, ...],
    names: tuple[str | None, ...],
    tuning: Tuning,
) -> Call:
    batch, topk = hm.shape[0], spec["topk"]
    vectors = math.prod(sizes) // vector
    unroll = tuning.unroll if vectors >= 2 * tuning.unroll * tuning.groups * topk else 1
    lanes_log = 0
    while lanes_log < 5 and vectors >= (unroll << (lanes_log + 1)) * tuning.groups * topk:
        lanes_log += 1
    variant = _peaks(hm.dtype, layout, vector, unroll, tuning.threads, topk)
    launch = variant.geometry(batch=batch, vectors=vectors).check()
    tiles = launch.grid[0] * tuning.threads
    keys = cdiv(batch + batch * (tiles >> lanes_log), 2) * 2
    scratch = keys + cdiv(batch * tiles * itemsize(hm.dtype), 16) * 2
    scalars = (*sizes, topk, lanes_log, *strides)
    return Call(variant, launch, names, scratch, scalars, batch)


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
    if tensor.dtype not in _DTYPES:
        raise KernelArgumentError(f"{name!r} is {tensor.dtype}; the GPU decodes {', '.join(_DTYPES)}.")
    if tensor.dtype != first.dtype or tensor.device != first.device:
        raise KernelArgumentError(
            f"{name!r} is {tensor.dtype} on device {tensor.device}, another output {first.dtype} on {first.device}."
        )
    if min(tensor.strides) < 0:
        raise _strided(name, tensor)
    if max(tensor.extent(), math.prod(tensor.shape[1:])) >= 2**31 - 16 * _MARGIN or tensor.shape[0] > 65535:
        raise KernelArgumentError(f"{name!r} is too large for 32-bit indices: its shape is {list(tensor.shape)}.")


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise KernelArgumentError(f"{name!r} has the shape {list(tensor.shape)}; expected {list(expected)}.")


def _check_contiguous(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    _check_shape(name, tensor, shape)
    expected = 1
    for axis in reversed(range(len(shape))):
        if tensor.step(axis) not in (0, expected):
            raise _strided(name, tensor)
        expected *= shape[axis]


def _strided(name: str, tensor: Tensor) -> KernelArgumentError:
    return KernelArgumentError(
        f"{name!r} of shape {list(tensor.shape)} has the strides {list(tensor.strides)}.",
        hint="Make it contiguous; maps may be channels-last, too.",
    )


def _zeros(count: int) -> Any:
    """Return that many uint64 zeros on the current device, once they are there; None for none."""
    if not count:
        return None
    import cupy

    with cupy.cuda.Stream(non_blocking=True) as stream:
        array = cupy.zeros(count, cupy.uint64)
        stream.synchronize()
    return array
