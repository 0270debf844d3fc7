"""Synthetic scenes of the same random numbers, drawn once a process: a third of the time of a small conversion."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import numpy as np

__all__ = ["forget", "quick_scenes"]

_MODULE = "convkit.processing._scenes"
_LIMIT = 200
"""How many are kept, of 0.9 MB each."""
_KEPT: OrderedDict[tuple[int, int, str], tuple[np.ndarray, Any]] = OrderedDict()


def quick_scenes() -> None:
    """Let scenes that were drawn before be copied, with the generator as it was left then. They are else the same."""
    module: Any = sys.modules.get(_MODULE)
    draw = getattr(module, "_scene", None)
    if draw is None or hasattr(draw, "keeps"):
        return

    def scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        key = (height, width, str(rng.bit_generator.state))
        if key not in _KEPT:
            _KEPT[key] = draw(rng, height, width), rng.bit_generator.state
            while len(_KEPT) > _LIMIT:
                _KEPT.popitem(last=False)
        image, rng.bit_generator.state = _KEPT[key]
        return image.copy()

    scene.keeps = True  # type: ignore[attr-defined]
    module._scene = scene


def forget() -> None:
    """Let the next scenes be drawn anew."""
    _KEPT.clear()
