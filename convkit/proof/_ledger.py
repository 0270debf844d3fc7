"""The ledger: after every stage the same samples, so that one sees where an error enters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit.model import ModelSpec
from convkit.processing import Decode, decode_batch
from convkit.proof._computes import Compute
from convkit.proof._metrics import broken_values, measure
from convkit.proof._rule import DECODED, limits_of
from convkit.proof._verdict import Stage

__all__ = ["Ledger"]

Outputs = Mapping[str, np.ndarray]


class Ledger:
    """Stages in order, each compared with the one before it and with the float64 reference.

    Outputs that are compared by results are decoded; the figure is then the number of results that nothing explains.
    """

    def __init__(
        self,
        spec: ModelSpec,
        feed: Mapping[str, np.ndarray],
        metas: Sequence[Mapping[str, Any]],
        reference: Compute,
        baselines: Mapping[str, Mapping[str, float]],
        decode: Decode | None = None,
    ) -> None:
        self.spec, self.feed, self.metas, self.baselines, self.decode = spec, feed, metas, baselines, decode
        self._reference: Outputs = reference(feed)
        self._previous: Outputs = {}
        self.stages: list[Stage] = []

    def add(self, name: str, compute: Compute, note: str = "") -> bool:
        """Run a stage, record its errors and return whether they are within the limits."""
        outputs = compute(self.feed)
        passed = True
        for output in self.spec.outputs:
            key = "rel_l2" if output.compare == "values" else "unexplained"
            baseline = self.baselines[output.name if output.compare == "values" else DECODED]
            limit = limits_of(baseline, output.tolerance).get(key, 0.0)
            exact = self._figure(output.name, output.compare, self._reference, outputs)
            previous = self._figure(output.name, output.compare, self._previous, outputs) if self._previous else 0.0
            good = exact <= limit < math.inf
            passed &= good
            self.stages.append(Stage(name, output.name, previous, exact, limit, good, note))
        self._previous = outputs
        return passed

    def _figure(self, name: str, compare: str, base: Outputs, outputs: Outputs) -> float:
        if compare == "values":
            return measure(base[name], outputs[name]).rel_l2
        assert self.decode is not None
        if base[name].shape != outputs[name].shape or broken_values(self._reference[name], outputs[name]):
            return math.inf
        pairs = zip(
            decode_batch(self.decode, base, self.metas), decode_batch(self.decode, outputs, self.metas), strict=True
        )
        return float(max(expected.compare(found).unexplained for expected, found in pairs))
