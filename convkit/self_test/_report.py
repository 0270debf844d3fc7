"""What a self-test found: two rates, and what stands behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Clean", "Outcome", "Planted", "SelfTest"]


@dataclass(frozen=True)
class Planted:
    """One fault in one place: ``by`` is the check that noticed it, empty where none did."""

    where: str
    caught: bool
    by: str = ""
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """One kind of fault: where it was planted, and the places where it was not because it changes nothing there.

    A kind that was planted nowhere is not applicable, and ``reason`` says why.
    """

    kind: str
    part: str
    cause: str
    planted: Sequence[Planted] = ()
    without_effect: Sequence[str] = ()
    reason: str = ""

    @property
    def applies(self) -> bool:
        """Whether the fault was planted at all."""
        return bool(self.planted)

    @property
    def caught(self) -> bool:
        """Whether it was noticed in every place where it was planted."""
        return self.applies and all(one.caught for one in self.planted)


@dataclass(frozen=True)
class Clean:
    """One variant that computes the same and has to pass; ``reason`` says why it cannot be made of this artifact.

    ``used`` is the largest share of a limit that any of its figures takes.
    """

    name: str
    group: str
    passed: bool = True
    by: str = ""
    note: str = ""
    used: float = 0.0
    reason: str = ""

    @property
    def applies(self) -> bool:
        """Whether the variant was run."""
        return not self.reason


@dataclass(frozen=True)
class SelfTest:
    """The rates of a proof: how many kinds of planted fault it caught, and how many clean variants it rejected."""

    backend: str
    device: str
    outcomes: Sequence[Outcome] = ()
    variants: Sequence[Clean] = ()
    seconds: float = 0.0
    seed: int = 0

    @property
    def faults(self) -> int:
        """The kinds of fault that were planted."""
        return sum(outcome.applies for outcome in self.outcomes)

    @property
    def caught(self) -> int:
        """The kinds that were noticed wherever they were planted."""
        return sum(outcome.caught for outcome in self.outcomes)

    @property
    def places(self) -> int:
        """The places in which a fault was planted, over all kinds."""
        return sum(len(outcome.planted) for outcome in self.outcomes)

    @property
    def clean(self) -> int:
        """The clean variants that were run."""
        return sum(variant.applies for variant in self.variants)

    @property
    def false_alarms(self) -> int:
        """The clean variants that were rejected."""
        return sum(variant.applies and not variant.passed for variant in self.variants)

    @property
    def passed(self) -> bool:
        """Whether every fault was caught and no alarm was false, of at least one each."""
        return bool(self.faults and self.clean) and self.caught == self.faults and not self.false_alarms

    def headline(self) -> str:
        """Return the two rates in one sentence."""
        return (
            f"faults caught {self.caught} of {self.faults}, in {self.places} places;"
            f" false alarms {self.false_alarms} of {self.clean}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the rates and every fault and variant behind them as a JSON object."""
        details = [
            {**asdict(outcome), "applies": outcome.applies, "caught": outcome.caught} for outcome in self.outcomes
        ]
        return {
            "passed": self.passed,
            "headline": self.headline(),
            "faults": self.faults,
            "caught": self.caught,
            "places": self.places,
            "clean": self.clean,
            "false_alarms": self.false_alarms,
            "seconds": round(self.seconds, 1),
            "seed": self.seed,
            "backend": self.backend,
            "device": self.device,
            "details": details,
            "variants": [{**asdict(variant), "applies": variant.applies} for variant in self.variants],
        }
