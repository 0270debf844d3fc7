"""The verdict: every check with its figure and its limit, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Check", "Stage", "Verdict", "finite", "read_baselines"]


@dataclass(frozen=True)
class Check:
    """One figure against its limit.

    ``kind`` is ``shape``, ``values`` (element by element), ``decoded`` (matched results), ``batch``, ``engines``
    (against another engine), ``layers`` (inside of the graph), ``preprocess``, ``decode`` or ``metric`` (of a precision
    against float32); ``figures`` and ``limits`` have the same keys. ``comparable`` False means that the check says
    nothing: PyTorch's own float32 deviates by more than a result may, so that the engine cannot be told from a wrong
    one. Such a check did not pass.
    """

    kind: str
    case: str
    output: str
    passed: bool
    figures: Mapping[str, float]
    limits: Mapping[str, float]
    note: str = ""
    comparable: bool = True

    @property
    def state(self) -> str:
        """``ok``, ``FAIL`` or ``not comparable``."""
        return "ok" if self.passed else "FAIL" if self.comparable else "not comparable"


@dataclass(frozen=True)
class Stage:
    """One step of the conversion: its error against the step before it and against float64."""

    name: str
    output: str
    against_previous: float
    against_float64: float
    limit: float
    passed: bool
    note: str = ""


@dataclass
class Verdict:
    """What was proved of one engine.

    ``reference`` names the arithmetic of the reference, ``backend`` and ``device`` what was judged.
    ``baselines`` are PyTorch's own float32 errors, from which the limits follow.
    """

    backend: str
    device: str
    reference: str = "PyTorch float64"
    inputs: str = ""
    checks: list[Check] = field(default_factory=list)
    ledger: list[Stage] = field(default_factory=list)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there are checks and all of them, and all stages, passed."""
        return bool(self.checks) and all(c.passed for c in self.checks) and all(s.passed for s in self.ledger)

    def __bool__(self) -> bool:
        return self.passed

    @property
    def failures(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    @property
    def comparable(self) -> bool:
        """Whether something is wrong, if not passed: False where all that failed cannot be compared."""
        failed = [*self.failures, *(stage for stage in self.ledger if not stage.passed)]
        return not failed or any(not isinstance(each, Check) or each.comparable for each in failed)

    def headline(self) -> str:
        """Return the verdict in one sentence."""
        if self.passed:
            return f"proved: {len(self.checks)} checks passed on {self.backend} ({self.device})"
        if not self.comparable:
            return (
                f"NOT proved: {len(self.failures)} of {len(self.checks)} checks are not comparable on {self.backend};"
                " PyTorch's own results deviate too much between float32 and float64"
            )
        stage = next((stage for stage in self.ledger if not stage.passed), None)
        where = f"; the error enters at stage {stage.name!r}, output {stage.output!r}" if stage else ""
        return f"NOT proved: {len(self.failures)} of {len(self.checks)} checks failed on {self.backend}{where}"

    def to_json(self) -> dict[str, Any]:
        """Return the whole verdict as a JSON object; infinite figures become null."""
        document = {"passed": self.passed, "headline": self.headline(), **asdict(self)}
        cleaned: dict[str, Any] = finite(document)
        return cleaned

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Verdict:
        """Return the verdict that `to_json` wrote."""
        return cls(
            backend=document["backend"],
            device=document["device"],
            reference=document["reference"],
            inputs=document["inputs"],
            checks=[Check(**check) for check in document["checks"]],
            ledger=[Stage(**stage) for stage in document["ledger"]],
            baselines=read_baselines(document["baselines"]),
            notes=list(document["notes"]),
        )


def read_baselines(document: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """Return baselines that JSON kept, where null stands for infinity."""
    return {
        name: {key: float("inf") if value is None else value for key, value in table.items()}
        for name, table in document.items()
    }


def finite(value: Any) -> Any:
    """Return ``value`` with what JSON cannot hold replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
