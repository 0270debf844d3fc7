"""The ledger: after every stage the same samples, so that one sees where an error enters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.model import ModelSpec, TensorSpec
from convkit.processing import Decode, decode_batch
from convkit.proof._computes import Compute
from convkit.proof._metrics import broken_values, measure
from convkit.proof._rule import DECODED, limits_of
from convkit.proof._verdict import Stage

__all__ = ["Ledger"]

Outputs = Mapping[str, np.ndarray]


class Ledger:
    """What the same samples give after every stage, in their order, and how far that is from the float64 reference.

    Outputs that are compared by results are decoded; the figure is then the number of results that nothing explains.
    """

    def __init__(self, spec: ModelSpec, feed: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> None:
        self.spec, self.feed, self.metas = spec, feed, metas
        self._entries: list[tuple[str, Outputs, str]] = []

    def add(self, name: str, compute: Compute, note: str = "") -> None:
        """Run a stage."""
        self._entries.append((name, compute(self.feed), note))

    def stages(
        self, reference: Compute, baselines: Mapping[str, Mapping[str, float]], decode: Decode | None = None
    ) -> list[Stage]:
        """Return each stage compared with the reference and with the stage before, an entry for each output."""
        right = reference(self.feed)
        table = _Figures(right, self.metas, decode)
        stages: list[Stage] = []
        previous: Outputs = {}
        for name, outputs, note in self._entries:
            for output in self.spec.outputs:
                key = "rel_l2" if output.compare == "values" else "unexplained"
                baseline = baselines[output.name if output.compare == "values" else DECODED]
                limit = limits_of(baseline, output.tolerance).get(key, 0.0)
                exact = table.figure(output, right, outputs)
                step = table.figure(output, previous, outputs) if previous else 0.0
                stages.append(Stage(name, output.name, step, exact, limit, exact <= limit < math.inf, note))
            previous = outputs
        return stages


@dataclass(frozen=True)
class _Figures:
    right: Outputs
    metas: Sequence[Mapping[str, Any]]
    decode: Decode | None

    def figure(self, output: TensorSpec, base: Outputs, outputs: Outputs) -> float:
        """Return how far one output of a stage is from ``base``."""
        name = output.name
        if output.compare == "values":
            return measure(base[name], outputs[name]).rel_l2
        assert self.decode is not None
        if base[name].shape != outputs[name].shape or broken_values(self.right[name], outputs[name]):
            return math.inf
        pairs = zip(
            decode_batch(self.decode, base, self.metas), decode_batch(self.decode, outputs, self.metas), strict=True
        )
        return float(max(expected.compare(found).unexplained for expected, found in pairs))
