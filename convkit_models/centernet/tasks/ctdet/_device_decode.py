"""The decode on a GPU: heads, packed rows or detections to boxes in the image, in one launch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from convkit import Detections, Result
from convkit.cuda import ArrayView, Launcher, Variant, allocate, clear, itemsize, load
from convkit.errors import KernelArgumentError
from convkit.processing import ArraySpec
from convkit_models.centernet._geometry import affine
from convkit_models.centernet.tasks.ctdet._decode_kernels import (
    DTYPES,
    LAYOUTS,
    MOST_ROWS,
    ROWS,
    TUNINGS,
    peaks_variant,
    pro_variant,
)
from convkit_models.centernet.tasks.ctdet._decode_plan import PACKED_FORM, DecodeLaunch, Tuning
from convkit_models.centernet.tasks.ctdet._decode_pro import MODE

__all__ = ["CudaDecode", "DecodeLaunch", "Tuning"]


class CudaDecode:
    """`CtdetDecode` on a GPU, with results that are equal to the bit for equal float32 heads.

    16-bit outputs are widened to float32 first. There may be up to `MOST_ROWS` detections per image. An object may be
    used on several streams; each has its own scratch memory.

    Raises:
        KernelArgumentError: the specification asks for more detections.
    """

    inputs = (ArraySpec("output_to_image", (8,), "float64"),)

    def __init__(self, spec: Mapping[str, Any], tuning: Tuning | None = None) -> None:
        if spec["topk"] > MOST_ROWS:
            raise KernelArgumentError(
                f"On a GPU there are at most {MOST_ROWS} detections an image, not {spec['topk']}.",
                hint="Decode on the host, or ask for fewer.",
            )
        self.results = (ArraySpec("rows", (spec["topk"], 6), "float32"), ArraySpec("counts", (), "int32"))
        self._spec = spec
        self._tuning = tuning
        self._launches: dict[Any, tuple[DecodeLaunch, Launcher]] = {}
        self._scratch: dict[Any, _Scratch] = {}
        self._lock = threading.Lock()
        self._matrix = lru_cache(maxsize=256)(self._new_matrix)

    def kernels(self) -> Sequence[Variant]:
        """Return variants for each dtype that the outputs may have, for contiguous maps of whole vectors."""
        if self._spec["form"] == "detections":
            return [ROWS.variant(T=dtype, THREADS=128) for dtype in DTYPES]
        layout = LAYOUTS["packed" if self._spec["form"] == PACKED_FORM else "planes"]
        if self._spec.get("mode") == MODE:
            return [pro_variant(dtype, layout, 256) for dtype in DTYPES]
        classes = len(self._spec["classes"])
        found = []
        for dtype in DTYPES:
            vector = 16 // itemsize(dtype)
            while layout == LAYOUTS["packed"] and any(number % vector for number in (4, classes, 4 + 2 * classes)):
                vector //= 2
            tunings = [self._tuning] if self._tuning else TUNINGS
            found += [peaks_variant(dtype, layout, vector, tuning, self._spec["topk"]) for tuning in tunings]
        return found

    def values(self, meta: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Return ``output_to_image``: the 2 x 3 matrix from output map to image, the width of the map, and 0."""
        return {"output_to_image": self._matrix(*meta["center"], meta["scale"], *meta["input"])}

    def launch(
        self, outputs: Mapping[str, Any], inputs: Mapping[str, Any], results: Mapping[str, Any], stream: int
    ) -> None:
        """Write ``rows`` (x1, y1, x2, y2, score, class) and ``counts`` of ``results`` on the stream.

        Rows beyond the count are 0. ``outputs`` are float32, float16 or bfloat16, contiguous or channels-last. The
        first launch for a batch and size on a stream compiles and allocates; later ones may be captured in a CUDA
        graph.

        Raises:
            KernelArgumentError: an array has the wrong dtype, device, shape or layout, or is too large.
        """
        views = {name: ArrayView.of(name, value) for name, value in outputs.items()}
        # all that a launch depends on: of addresses only their alignment
        key = tuple((name, v.shape, v.strides, v.dtype, v.device, v.address % 16) for name, v in views.items())
        planned, launcher = self._launches.get(key) or self._plan(key, views)
        arrays = [ArrayView.of(each.name, inputs[each.name]) for each in self.inputs]
        arrays += [ArrayView.of(each.name, results[each.name]) for each in self.results]
        for spec, view in zip((*self.inputs, *self.results), arrays, strict=True):
            view.check_contiguous(spec.name, (planned.batch, *spec.shape))
        maps = [0 if name is None else views[name] for name in planned.inputs]
        if not planned.scratch:
            launcher(planned.config, *maps, *arrays, *planned.scalars, stream=stream)
            return
        scratch = self._scratch.get((key, stream)) or self._new_scratch(key, stream, planned)
        with scratch.prepared(stream):
            launcher(planned.config, *maps, *arrays, scratch.memory, *planned.scalars, stream=stream)

    def read(self, results: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the detections of each image from the host's copies of what ``launch`` wrote."""
        classes = tuple(self._spec["classes"])
        return [
            Detections(row[:count, :4].copy(), row[:count, 4].copy(), row[:count, 5].astype(np.int64), classes)
            for row, count, _ in zip(results["rows"], results["counts"], metas, strict=True)
        ]

    def _plan(self, key: Any, views: Mapping[str, ArrayView]) -> tuple[DecodeLaunch, Launcher]:
        planned = DecodeLaunch.plan(self._spec, views, self._tuning)
        with self._lock:
            return self._launches.setdefault(key, (planned, load(planned.variant)))

    def _new_scratch(self, key: Any, stream: int, planned: DecodeLaunch) -> _Scratch:
        with self._lock:
            new = _Scratch(allocate((planned.scratch,), "uint64"), planned.tickets)
            return self._scratch.setdefault((key, stream), new)

    def _new_matrix(self, x: float, y: float, scale: float, height: int, width: int) -> np.ndarray:
        size = (width // self._spec["stride"], height // self._spec["stride"])
        matrix = affine((x, y), scale, size, inverse=True)
        return np.array([*matrix.reshape(6), size[0], 0])


class _Scratch:
    """Scratch memory of the launches on one stream, whose tickets are 0 unless a launch was aborted."""

    def __init__(self, memory: Any, tickets: int) -> None:
        self.memory = memory
        self._tickets, self._clean = tickets, False

    @contextmanager
    def prepared(self, stream: int) -> Iterator[None]:
        """Launch within: the tickets are cleared before if the memory is new or the launch before it failed."""
        done = self._clean or clear(self.memory, stream, self._tickets)
        self._clean = False
        yield
        self._clean = done
