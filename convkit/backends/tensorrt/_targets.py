"""Compute capabilities as people write them: ``sm86``, ``8.6``, ``sm86,sm89``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from convkit.backends.tensorrt._flavour import Flavour
from convkit.errors import ConversionError, SettingError

__all__ = ["parse_targets"]


def parse_targets(flavour: Flavour, texts: Iterable[str]) -> tuple[str, ...]:
    """Return compute capabilities as the flavour names them, each once; its default ones if none is given.

    Raises:
        SettingError: a text is no compute capability.
        ConversionError: the flavour makes no engines for one of them.
    """
    words = [word.strip().lower() for text in texts for word in text.split(",") if word.strip()]
    chosen: list[str] = []
    for word in words:
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", word)
        if not match:
            raise SettingError(
                f"--target {word!r} is not a compute capability.", hint=f"Known: {', '.join(flavour.targets)}."
            )
        target = f"sm{match.group(1)}{match.group(2)}"
        if target not in flavour.targets:
            raise ConversionError(
                f"{flavour.title} makes no engines for {target} (compute capability {match[1]}.{match[2]}).",
                hint=f"It makes engines for {', '.join(flavour.targets)}.",
            )
        if target not in chosen:
            chosen.append(target)
    return tuple(chosen) or flavour.default_targets
