"""The reference of a conversion: the untouched network in float64 and float32, computed beside the export."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from convkit.conversion._inputs import RawInputs
from convkit.errors import blamed_on
from convkit.model import SourceModel
from convkit.processing import Decode, collate, find_decode
from convkit.progress import Progress
from convkit.proof import (
    Beside,
    Case,
    Compute,
    Ledger,
    Samples,
    Stage,
    TorchCompute,
    measure_baselines,
    own_sizes,
    shape_cases,
)

__all__ = ["STORED_SAMPLES", "Measured", "Reference"]

STORED_SAMPLES = 2
"""Samples whose inputs and reference outputs the artifact carries."""


@dataclass(frozen=True)
class Measured:
    """What PyTorch computes: the reference, its own float32 errors, and the samples of the proof.

    ``ledger`` is what the stages gave so far, judged by these errors.
    """

    cases: Sequence[Case]
    opt: Case
    samples: Samples
    stored: Samples
    reference: Compute
    baselines: Mapping[str, Mapping[str, float]]
    decode: Decode | None
    ledger: list[Stage]


class Reference:
    """Runs the untouched network in float64 and float32 in every case, from now on, until `measured`.

    ``float32`` is for the checks of the network meanwhile: what it knows is not run again. ``ledger`` takes what each
    stage gives on the stored samples, once `check_in` was called.
    """

    def __init__(self, source: SourceModel, inputs: RawInputs, plugin: str, progress: Progress) -> None:
        spec = source.spec
        self._spec = spec
        self._cases = shape_cases(spec.dims)
        self._opt = next(case for case in self._cases if "opt" in case.name.split("="))
        progress("preparing the samples")
        self._samples = Samples.prepare(spec, inputs.values, [case.item_sizes for case in self._cases])
        self._step = f"running PyTorch in float64 and float32 on {inputs.origin}"
        self.float32 = TorchCompute(source, source.module, "float32", plugin=plugin)
        with blamed_on("copying the module for float64", plugin):
            self._exact = TorchCompute(source, copy.deepcopy(source.module).double(), "float64", plugin=plugin)
        feeds = [self._samples.feed(case) for case in self._cases]
        kept = inputs.values[:STORED_SAMPLES]
        self._stored = Samples.prepare(spec, kept, [*self._samples.prepared, *filter(None, own_sizes(spec, kept))])
        own = [collate(spec.inputs, [item]) for items in self._stored.prepared.values() for item in items]
        self.ledger = Ledger(spec, self._stored.feed(self._opt), self._stored.metas(self._opt))
        self._beside = Beside([*self._exact.pending([*feeds, *own]), *self.float32.pending(feeds)])

    def check_in(self, progress: Progress) -> None:
        """Enter the network itself into the ledger; what no other process computes is computed before patches come."""
        progress(self._step)
        self._beside.ease()
        self.ledger.add("PyTorch float32", self.float32, "the checkpoint's own network")
        if not self._beside.works:
            self._finish(progress)

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._beside.__exit__(kind, error, at)

    def measured(self, progress: Progress) -> Measured:
        """Wait for the rest, and return all of it."""
        self._finish(progress)
        self._exact.release()
        decode = find_decode(self._spec.decode)
        baselines = measure_baselines(self._spec, self._exact, self.float32, self._samples, self._cases, decode)
        stages = self.ledger.stages(self._exact, baselines, decode)
        return Measured(self._cases, self._opt, self._samples, self._stored, self._exact, baselines, decode, stages)

    def _finish(self, progress: Progress) -> None:
        total = len(self._beside.tasks)
        self._beside.finish(lambda count: progress(self._step, count, total))
