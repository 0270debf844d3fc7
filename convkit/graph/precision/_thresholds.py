"""The largest magnitude that int8 has to represent of each tensor, from a histogram over samples."""

from __future__ import annotations

import numpy as np

from convkit.errors import SettingError, suggest

__all__ = ["METHODS", "Histogram", "find_method"]

METHODS = ("minmax", "entropy", "percentile")
"""How the largest magnitude is chosen: the largest seen, the least loss of information, all but a few values."""

_BINS = 4096
_COARSE = 2048
"""Bins in which distributions are compared."""
_STEP = 8
"""Bins from one cut that is tried to the next."""
_LEVELS = 128
"""Magnitudes that int8 tells apart."""
_ALMOST_NONE = 1e-4
"""Values in a bin that the quantised distribution has none in: a divergence from nothing would be infinite."""
_PERCENTILE = 99.999
_BLOCK = 1 << 17


def find_method(name: str) -> str:
    """Return the name of a method of calibration.

    Raises:
        SettingError: there is none of that name.
    """
    if name not in METHODS:
        raise SettingError(
            f"The method of calibration cannot be {name!r}.",
            hint=f"{suggest(name, METHODS)} There are {', '.join(METHODS)}.",
        )
    return name


class Histogram:
    """Magnitudes of a tensor in bins of equal width, which double when a larger one comes: memory does not grow.

    ``largest`` is the largest magnitude so far; ``finite`` whether all values were.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)
        self.top = 0.0
        self.largest = 0.0
        self.finite = True

    def add(self, values: np.ndarray) -> None:
        """Count the values of an array."""
        flat = np.ravel(values)
        blocks = [np.abs(flat[start : start + _BLOCK]) for start in range(0, flat.size, _BLOCK)]
        largest = max((float(block.max()) for block in blocks), default=0.0)
        self.finite = self.finite and bool(np.isfinite(largest))
        if not self.finite:
            return
        self.largest = max(self.largest, largest)
        self._widen(largest)
        if not self.top:
            self.counts[0] += flat.size
            return
        factor = np.float32(_BINS / self.top)
        for block in blocks:
            places = (block * factor).astype(np.int64)
            self.counts += np.bincount(np.minimum(places, _BINS - 1), minlength=_BINS)

    def _widen(self, largest: float) -> None:
        """Make the range reach a magnitude; it ends at a power of two, so that bins merge in pairs."""
        if not self.top and largest:
            zeros = self.counts[0]
            self.top = float(2.0 ** np.ceil(np.log2(largest)))
            self.counts[0] = zeros
        while self.top and largest > self.top:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
            self.top *= 2

    def threshold(self, method: str) -> float:
        """Return the largest magnitude that has to be represented; 0 if all values are 0."""
        if not self.largest or method == "minmax":
            return self.largest
        found = _percentile(self.counts) if method == "percentile" else _least_divergence(self.counts)
        return min(found * self.top, self.largest)


def _percentile(counts: np.ndarray) -> float:
    """Return where all but a few values lie below, as a share of the range."""
    below = np.cumsum(counts) / counts.sum()
    return float(np.searchsorted(below, _PERCENTILE / 100) + 1) / counts.size


def _least_divergence(counts: np.ndarray) -> float:
    """Return where to cut so that quantising loses the least information, as a share of the range.

    Of all cuts that one has the smallest Kullback-Leibler divergence of the quantised distribution from the whole one,
    whose values beyond the cut lie at it.
    """
    coarse = counts.reshape(_COARSE, -1).sum(1).astype(np.float64)
    coarse[0] = coarse[1]  # zeros are exact whatever the scale, and would outweigh all others behind an activation
    if not coarse.any():
        return 1.0
    used = int(np.flatnonzero(coarse)[-1]) + 1
    cuts = np.arange(min(_LEVELS, used), used + 1, _STEP)
    divergences = [_divergence(coarse, int(cut)) if coarse[:cut].any() else np.inf for cut in cuts]
    return float(cuts[int(np.argmin(divergences))]) / _COARSE


def _divergence(counts: np.ndarray, cut: int) -> float:
    """Return the divergence of the first ``cut`` bins in `_LEVELS` levels from the whole distribution."""
    whole = counts[:cut].copy()
    whole[-1] += counts[cut:].sum()
    level = np.arange(cut) * _LEVELS // cut
    full = counts[:cut] > 0
    share = np.bincount(level, counts[:cut], _LEVELS) / np.maximum(np.bincount(level, full, _LEVELS), 1)
    quantised = np.where(full, share[level], 0)
    seen = whole > 0
    p, q = whole[seen] / whole.sum(), np.maximum(quantised[seen], _ALMOST_NONE) / quantised.sum()
    return float(np.sum(p * np.log(p / q)))
