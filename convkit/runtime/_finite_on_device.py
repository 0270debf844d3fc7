"""NaN and infinity in outputs that stay on the GPU: a flag for each item, copied back with its results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convkit.cuda import Argument, ArrayView, Kernel, LaunchConfig, ResourceLimit, Variant, load
from convkit.model import TensorSpec
from convkit.processing import ArraySpec
from convkit.runtime._finite import FiniteCheck

__all__ = ["NOT_FINITE", "FiniteOnDevice"]

BLOCKS = 32
"""Blocks, and flags, of an output of an item."""
THREADS = 256
DTYPES = ("float16", "bfloat16", "float32")
NAN = 1


def _launch_config(batch: Any, THREADS: int) -> LaunchConfig:  # noqa: N803 - named as the constant
    return LaunchConfig(grid=(BLOCKS, batch, 1), block=(THREADS, 1, 1))


NOT_FINITE = Kernel(
    name="convkit_not_finite",
    source=Path(__file__).parent / "kernels" / "not_finite.cu",
    arguments=(
        Argument("values", "T"),
        Argument("flags", "int32", output=True),
        Argument("size", "int64", pointer=False),
        Argument("stride", "int32", pointer=False),
    ),
    sizes=("batch",),
    launch_config=_launch_config,
    constants=("T", "THREADS"),
    limit=ResourceLimit(registers=64, static_smem_bytes=1024),
)
"""The declaration of ``not_finite.cu``."""


class FiniteOnDevice:
    """The check of `FiniteCheck` for outputs on a GPU: one launch for each output behind the engine, no extra wait.

    ``flags`` is the array that it writes for each item; `refuse` reads the host's copy of it. ``outputs`` are those
    that are floating-point numbers by their specification, ``seen`` the names of those that are on the GPU too.
    """

    def __init__(self, check: FiniteCheck, outputs: Sequence[TensorSpec]) -> None:
        self._check = check
        self.outputs = [output for output in outputs if output.host_dtype.startswith("float")]
        self.seen: set[str] = set()
        self.flags = ArraySpec("convkit.not_finite", (len(self.outputs), BLOCKS), "int32")

    def launch(self, outputs: Mapping[str, Any], flags: Any, stream: int) -> None:
        """Write ``flags`` (int32 [B, outputs, 32]) on the stream. The first launch compiles."""
        table = ArrayView.of("flags", flags)
        for number, output in enumerate(self.outputs):
            view = ArrayView.of(output.name, outputs[output.name])
            if view.dtype not in DTYPES or not (view.contiguous or view.channels_last):
                continue
            self.seen.add(output.name)
            batch = view.shape[0] if output.batched else 1
            where = ArrayView((1,), (1,), "int32", table.address + 4 * BLOCKS * number, table.device)
            variant = NOT_FINITE.variant(T=view.dtype, THREADS=THREADS)
            self._start(variant, view, where, math.prod(view.shape) // max(batch, 1), batch, stream)

    def refuse(self, flags: np.ndarray) -> None:
        """Raise for the first item that is no number; ``flags`` are those of the items of a batch.

        Raises:
            NotFiniteError: see `FiniteCheck`.
        """
        for number, output in enumerate(self.outputs):
            if output.name not in self.seen:
                continue
            rows = flags[: None if output.batched else 1, number]
            for row in np.flatnonzero(rows.any(axis=1)):
                self._check.refuse(output.name, int(row), nan=bool((rows[row] & NAN).any()))

    def _start(self, variant: Variant, values: Any, flags: Any, size: int, batch: int, stream: int) -> None:
        stride = len(self.outputs) * BLOCKS
        load(variant)(variant.launch_config(batch=batch), values, flags, size, stride, stream=stream)
