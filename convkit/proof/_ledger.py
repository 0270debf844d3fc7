"""The ledger: after every stage the same samples, so that one sees where an error enters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convkit.adapter import ModelSpec
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
        runs = compare_runs(
            {
                "stage": lambda feed: outputs,
                "float64": lambda feed: self._reference,
                "previous": lambda feed: self._previous or outputs,
            },
            [self.feed],
            self.spec.inputs,
            self.spec.outputs,
        )
        passed = True
        for output in self.spec.outputs:
            yardstick = self.yardsticks[output.name]
            key = "rel_l2" if output.compare == "values" else "unexplained"
            limit = limits_of(yardstick, output.tolerance).get(key, 0.0)
            exact, previous = (self._figure(runs[run][0][output.name]) for run in ("float64", "previous"))
            good = exact <= limit
            passed &= good
            self.stages.append(Stage(name, output.name, previous, exact, limit, good, note))
        self._previous = outputs
        return passed

    @staticmethod
    def _figure(errors: list[object]) -> float:
        return max(
            error.rel_l2 if isinstance(error, TensorError) else float(getattr(error, "unexplained", 0))
            for error in errors
        )
