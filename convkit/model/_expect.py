"""How often a patch or rewrite must fire: ``exactly(3)``, ``at_least(1)``, ``optional()``."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Expect", "at_least", "exactly", "optional"]


@dataclass(frozen=True)
class Expect:
    """A closed range of counts; ``most`` None means no upper bound."""

    least: int
    most: int | None

    def accepts(self, count: int) -> bool:
        """Tell whether ``count`` lies in the range."""
        return count >= self.least and (self.most is None or count <= self.most)

    def __str__(self) -> str:
        if self.most == self.least:
            return f"exactly {self.least}"
        if self.most is None:
            return f"at least {self.least}" if self.least else "any number"
        return f"{self.least} to {self.most}"


def exactly(count: int) -> Expect:
    """Fire ``count`` times, neither more nor less."""
    return Expect(count, count)


def at_least(count: int) -> Expect:
    """Fire ``count`` times or more."""
    return Expect(count, None)


def optional() -> Expect:
    """Fire any number of times, none included."""
    return Expect(0, None)
