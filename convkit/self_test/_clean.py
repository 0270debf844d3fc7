"""A clean variant: the same model, computed another way that has to pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convkit.self_test._subject import Subject

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["NotApplicableError", "Variant"]


class NotApplicableError(Exception):
    """The variant cannot be made of this artifact; the text says why."""


@dataclass(frozen=True)
class Variant:
    """Another way to compute the same; ``make`` returns it, or raises `NotApplicableError`."""

    name: str
    group: str
    make: Callable[[Judge], Subject]
