"""What the commands that run an artifact say of its proof."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convkit.runtime import Predictor

__all__ = ["say_coverage", "say_unproved"]


def say_coverage(predictor: Predictor) -> None:
    """Write to stderr that no proof covers what runs, even in quiet mode, or what else a reader has to know of it."""
    from convkit.backends import validate_command
    from convkit.cli._console import stderr

    if predictor.unproved:
        device = predictor.session.device
        say_unproved(predictor.unproved, validate_command(predictor.artifact, predictor.backend, device))
    elif predictor.coverage.note:
        stderr().print(f"note: {predictor.coverage.note}", markup=False)


def say_unproved(reason: str, command: str = "") -> None:
    """Write to stderr why no proof covers the results, and the command that proves them."""
    from convkit.cli._console import printable

    remedy = f" Prove it: {command}" if command else ""
    sys.stderr.write(printable(f"unproved: {reason}.{remedy}") + "\n")
