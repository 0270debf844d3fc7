"""Mean and standard deviation of a preprocess: nonsense is refused with its likely cause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from convkit.errors import SettingError

__all__ = ["check_normalisation"]

STEP = 1 / 255
"""Of a standard deviation of values in 0..1 nothing smaller is left: it is less than one level of a pixel."""


def check_normalisation(spec: Mapping[str, Any], *, images: bool = True, largest: float | None = None) -> None:
    """Refuse nonsense in ``mean`` and ``std`` of a specification, one number or one a channel; others are left.

    ``images`` says that they are of pixel values, on the scale 0..1 or 0..255; ``largest`` which of these, where that
    is known. Of other values only what cannot be on any scale is refused.

    Raises:
        SettingError: a standard deviation is not above 0, a number is not finite, the two have different lengths, are
            negative or on another scale than the values, or than each other.
    """
    mean, std = _numbers(spec.get("mean")), _numbers(spec.get("std"))
    for name, values in (("mean", mean), ("std", std)):
        if any(not math.isfinite(value) for value in values):
            raise _refusal(name, values, "It is not finite", "Give a finite number for each channel.")
    if any(value <= 0 for value in std):
        raise _refusal("std", std, "A standard deviation is above 0", "Where nothing is to be divided, it is 1.")
    if mean and std and len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise _refusal("mean", mean, f"std has {len(std)} numbers", "Give one for each channel, or one for all.")
    if images:
        _check_scale(mean, std, largest)


def _check_scale(mean: Sequence[float], std: Sequence[float], largest: float | None) -> None:
    if any(value < 0 for value in mean):
        raise _refusal("mean", mean, "A pixel is never negative", "The mean is subtracted: leave the sign out.")
    top = max(mean, default=0.0)
    if largest == 1.0:
        if top > 1:
            raise _refusal("mean", mean, "It is for pixels of 0 to 255; these are 0 to 1", _divide(mean, std))
        if any(value > 1 for value in std):
            raise _refusal("std", std, "It is for pixels of 0 to 255; these are 0 to 1", _divide(mean, std))
    elif largest is not None and 0 < top <= 1:
        raise _refusal("mean", mean, f"It is for pixels of 0 to 1; these are 0 to {largest:g}", "Multiply by 255.")
    elif top > 1 and any(value < 1 for value in std):
        raise _refusal("std", std, f"mean is {_text(mean)}, for pixels of 0 to 255; this is for 0 to 1", _SAME)
    elif 0 < top <= 1 and any(value > 1 for value in std):
        raise _refusal("std", std, f"mean is {_text(mean)}, for pixels of 0 to 1; this is for 0 to 255", _SAME)
    if top <= 1 and any(value < STEP for value in std) and (largest is None or largest == 1.0):
        raise _refusal("std", std, "It is less than one level of a pixel", "Was it divided by 255 twice?")


_SAME = "Give both on the same scale: divide by 255, or multiply."


def _divide(mean: Sequence[float], std: Sequence[float]) -> str:
    """Return the remedy, with the numbers as they have to be."""
    parts = []
    for name, values in (("mean", mean), ("std", std)):
        if values and max(values) > 1:
            parts.append(f"{name}={','.join(f'{value / 255:.4g}' for value in values)}")
    return f"Divide by 255: {' '.join(parts)}"


def _refusal(name: str, values: Sequence[float], why: str, hint: str) -> SettingError:
    return SettingError(f"The normalisation has a {name} of {_text(values)}. {why}.", hint=hint)


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _numbers(value: Any) -> list[float]:
    """Return one number or a list of them as a list; an empty list for anything else."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in values):
        return []
    return [float(each) for each in values]
