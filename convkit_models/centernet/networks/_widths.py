"""The vote over a checkpoint's shapes.

Every width is decided by the majority of the tensors that share it, so that one tensor of a wrong
shape is reported as that, and does not bend the layout around itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from convkit_models.centernet.networks._layout import Head

__all__ = ["Shape", "Widths", "norm"]

Shape = tuple[int, ...]


class Widths:
    """The shapes, and the vote over them."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes

    def width(self, default: int, *votes: tuple[str, int]) -> int:
        """Return the size that most of these (tensor, axis) pairs have; the first where they disagree evenly."""
        sizes = [
            self.shapes[name][axis] for name, axis in votes if name in self.shapes and axis < len(self.shapes[name])
        ]
        return Counter(sizes).most_common(1)[0][0] if sizes else default

    def conv(self, default: int, conv: str, batch_norm: str, *more: tuple[str, int]) -> int:
        """Return the output width of a convolution with a normalisation behind it."""
        return self.width(default, (f"{conv}.weight", 0), *norm(batch_norm), *more)

    def below(self, default: int, *prefixes: str) -> int:
        """Return the first size of most tensors whose names begin with one of these."""
        return self.width(default, *((name, 0) for name in self.shapes if name.startswith(prefixes)))

    def count(self, pattern: str) -> int:
        """Return how many different first groups a pattern has at the beginnings of the names."""
        return len({match[1] for name in self.shapes if (match := re.match(pattern, name))})

    def head(self, name: str) -> Head:
        """Return a head of the families ``res``, ``resdcn``, ``dla`` and ``dlav0``."""
        if not any(other.startswith((f"{name}.0.", f"{name}.2.")) for other in self.shapes):
            return Head(name, self.width(1, (f"{name}.weight", 0), (f"{name}.bias", 0)), hidden=0)
        return Head(
            name,
            channels=self.width(1, (f"{name}.2.weight", 0), (f"{name}.2.bias", 0)),
            hidden=self.width(1, (f"{name}.0.weight", 0), (f"{name}.0.bias", 0), (f"{name}.2.weight", 1)),
        )


def norm(name: str) -> tuple[tuple[str, int], ...]:
    """Return the votes of a normalisation's tensors."""
    return tuple((f"{name}.{part}", 0) for part in ("weight", "bias", "running_mean", "running_var"))
