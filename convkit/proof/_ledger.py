"""The ledger: after every stage the same samples, so that one sees where an error enters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from convkit.model import ModelSpec
from convkit.proof._errors import TensorError
from convkit.proof._rule import limits_of
from convkit.proof._runners import Compute, compare_runs
from convkit.proof._verdict import Stage

__all__ = ["Ledger"]


class Ledger:
    """Stages in order, each compared with the one before it and with the float64 reference."""

    def __init__(
        self,
        spec: ModelSpec,
        feed: Mapping[str, np.ndarray],
        reference: Compute,
        yardsticks: Mapping[str, Mapping[str, float]],
    ) -> None:
        self.spec, self.feed, self.yardsticks = spec, feed, yardsticks
        self._reference = {name: np.asarray(value) for name, value in reference(feed).items()}
        self._previous: dict[str, np.ndarray] = {}
        self.stages: list[Stage] = []

    def add(self, name: str, compute: Compute, note: str = "") -> bool:
        """Run a stage, record its errors and return whether they are within the limits."""
        outputs = {key: np.asarray(value) for key, value in compute(self.feed).items()}
        against_float64 = self._compare(self._reference, outputs)
        against_previous = self._compare(self._previous or outputs, outputs)
        passed = True
        for output in self.spec.outputs:
            yardstick = self.yardsticks[output.name]
            key = "rel_l2" if output.compare == "values" else "unexplained"
            limit = limits_of(yardstick, output.tolerance).get(key, 0.0)
            exact = self._figure(against_float64[output.name])
            previous = self._figure(against_previous[output.name])
            good = exact <= limit < math.inf
            passed &= good
            self.stages.append(Stage(name, output.name, previous, exact, limit, good, note))
        self._previous = outputs
        return passed

    def _compare(self, base: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, list[object]]:
        runs = {"base": lambda feed: base, "stage": lambda feed: outputs}
        return compare_runs(runs, [self.feed], self.spec.inputs, self.spec.outputs)["stage"][0]

    @staticmethod
    def _figure(errors: list[object]) -> float:
        return max(
            error.rel_l2 if isinstance(error, TensorError) else float(getattr(error, "unexplained", 0))
            for error in errors
        )
