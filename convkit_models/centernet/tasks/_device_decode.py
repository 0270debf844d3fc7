"""What the decodes on a GPU share: planned launches, scratch memory, and the matrix from output map to image."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from convkit import Result
from convkit.cuda import (
    Argument,
    ArrayView,
    Kernel,
    LaunchConfig,
    Launcher,
    ResourceLimit,
    Variant,
    allocate,
    clear,
    load,
)
from convkit.processing import ArraySpec
from convkit_models.centernet._geometry import affine
from convkit_models.centernet.tasks._device_layout import check_output, wanted

__all__ = ["ROWS", "DecodeLaunch", "LaunchedDecode", "Step", "plan_rows"]


ROWS = Kernel(
    name="convkit_rows",
    source=Path(__file__).parent / "kernels" / "rows.cu",
    arguments=(
        Argument("chosen", "T"),
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
    constants=("T", "LABELS", "THREADS"),
    limit=ResourceLimit(registers=64, static_smem_bytes=1024, spill_bytes=0),
)
"""Rows that the graph chose, in input pixels, to results in the image."""


@dataclass(frozen=True)
class Step:
    """One kernel of a launch.

    ``arrays`` are the names of its pointers, in order: of outputs, inputs, results or scratch memory; None is a null
    pointer.
    """

    variant: Variant
    config: LaunchConfig
    arrays: tuple[str | None, ...]
    scalars: tuple[int | float, ...]


@dataclass(frozen=True)
class DecodeLaunch:
    """The launch that decodes outputs of certain shapes, for any batch of these shapes: kernels one after the other.

    ``scratch`` has dtype and number of values of each piece of scratch memory by name. The first ``tickets`` values of
    the first piece must be 0 before a launch, and are 0 after it.
    """

    batch: int
    steps: tuple[Step, ...]
    scratch: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    tickets: int = 0


class LaunchedDecode(ABC):
    """A decode on a GPU whose rows have a box and a score first, in the image. Rows beyond the count are 0.

    A specification says what is decoded; a row has so many ``columns``. An object may be used on several streams; each
    has its own scratch memory.
    """

    inputs = (ArraySpec("output_to_image", (8,), "float64"),)

    def __init__(self, spec: Mapping[str, Any], columns: int) -> None:
        self.results = (ArraySpec("rows", (spec["topk"], columns), "float32"), ArraySpec("counts", (), "int32"))
        self._spec = spec
        self._launches: dict[Any, tuple[DecodeLaunch, tuple[Launcher, ...]]] = {}
        self._scratch: dict[Any, _Scratch] = {}
        self._lock = threading.Lock()
        self._matrix = lru_cache(maxsize=256)(self._new_matrix)

    @abstractmethod
    def kernels(self) -> Sequence[Variant]:
        """Return the variants for each dtype that outputs may have."""

    @abstractmethod
    def plan(self, outputs: Mapping[str, ArrayView]) -> DecodeLaunch:
        """Return the launch for outputs, which may be any others of these shapes later.

        Raises:
            KernelArgumentError: an output is missing, or has the wrong shape, dtype or layout, or is too large.
        """

    @abstractmethod
    def read(self, results: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the results of each image from the host's copies of what ``launch`` wrote."""

    def values(self, meta: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Return ``output_to_image``: the 2 x 3 matrix from output map to image, the width of the map, and 0."""
        return {"output_to_image": self._matrix(*meta["center"], meta["scale"], *meta["input"])}

    def launch(
        self, outputs: Mapping[str, Any], inputs: Mapping[str, Any], results: Mapping[str, Any], stream: int
    ) -> None:
        """Write ``rows`` and ``counts`` of ``results`` on the stream.

        ``outputs`` are float32, float16 or bfloat16, contiguous or channels-last. The first launch for a batch and size
        on a stream compiles and allocates; later ones may be captured in a CUDA graph.

        Raises:
            KernelArgumentError: an array has the wrong dtype, device, shape or layout, or is too large.
        """
        views = {name: ArrayView.of(name, value) for name, value in outputs.items()}
        # all that a launch depends on: of addresses only their alignment
        key = tuple((name, v.shape, v.strides, v.dtype, v.device, v.address % 16) for name, v in views.items())
        planned, launchers = self._launches.get(key) or self._planned(key, views)
        arrays: dict[str | None, Any] = {None: 0}
        arrays.update(views)
        for given, specs in ((inputs, self.inputs), (results, self.results)):
            for spec in specs:
                arrays[spec.name] = view = ArrayView.of(spec.name, given[spec.name])
                view.check_contiguous(spec.name, (planned.batch, *spec.shape))
        scratch = self._scratch.get((key, stream)) or self._new_scratch(key, stream, planned)
        arrays.update(scratch.memory)
        with scratch.prepared(stream):
            for step, launcher in zip(planned.steps, launchers, strict=True):
                launcher(step.config, *(arrays[name] for name in step.arrays), *step.scalars, stream=stream)

    def _planned(self, key: Any, views: Mapping[str, ArrayView]) -> tuple[DecodeLaunch, tuple[Launcher, ...]]:
        planned = self.plan(views)
        launchers = tuple(load(step.variant) for step in planned.steps)
        with self._lock:
            return self._launches.setdefault(key, (planned, launchers))

    def _new_scratch(self, key: Any, stream: int, planned: DecodeLaunch) -> _Scratch:
        with self._lock:
            memory = {name: allocate((count,), dtype) for name, (dtype, count) in planned.scratch.items()}
            return self._scratch.setdefault((key, stream), _Scratch(memory, planned.tickets))

    def _new_matrix(self, x: float, y: float, scale: float, height: int, width: int) -> np.ndarray:
        size = (width // self._spec["stride"], height // self._spec["stride"])
        return np.array([*affine((x, y), scale, size, inverse=True).reshape(6), size[0], 0])


class _Scratch:
    """Scratch memory of the launches on one stream, whose tickets are 0 unless a launch was aborted."""

    def __init__(self, memory: Mapping[str, Any], tickets: int) -> None:
        self.memory = memory
        self._tickets, self._clean = tickets, not tickets

    @contextmanager
    def prepared(self, stream: int) -> Iterator[None]:
        """Launch within: the tickets are cleared before if the memory is new or the launch before it failed."""
        done = self._clean or clear(next(iter(self.memory.values())), stream, self._tickets)
        self._clean = not self._tickets
        yield
        self._clean = done


def plan_rows(spec: Mapping[str, Any], chosen: Mapping[str, ArrayView], name: str, joints: int = 0) -> DecodeLaunch:
    """Return the launch for the output ``name``: rows that the graph chose, with so many joints, and a class last.

    The class is copied where there are no joints.

    Raises:
        KernelArgumentError: the rows are missing, or have the wrong shape, dtype or layout, or are too large.
    """
    (rows,) = wanted(chosen, (name,)).values()
    check_output(name, rows, rows, rank=3)
    rows.check_shape(name, (rows.shape[0], spec["topk"], 6 + 2 * joints))
    variant = ROWS.variant(T=rows.dtype, LABELS=not joints, THREADS=128)
    scalars = (spec["topk"], joints, float(spec["stride"]), rows.step(0), rows.step(1), rows.step(2))
    arrays = (name, "output_to_image", "rows", "counts")
    return DecodeLaunch(
        rows.shape[0], (Step(variant, variant.launch_config(batch=rows.shape[0]).check(), arrays, scalars),)
    )
