"""The shape of a CenterNet without any weights: what every family of networks says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from convkit_models.centernet._names import INPUT

__all__ = ["STRIDE", "Head", "Layout"]

STRIDE = 4
"""Input pixels per cell of the output maps, on both axes, in every family."""


@dataclass(frozen=True)
class Head:
    """One output map: its channels, and the width of the 3x3 convolution before it (0: a single 1x1)."""

    name: str
    channels: int
    hidden: int


class Layout(ABC):
    """Every block count and channel width of one network. Each family has a frozen dataclass of its own."""

    heads: tuple[Head, ...]

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The official name, for example ``resdcn_18``."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Height and width of the input are multiples of it."""

    @property
    @abstractmethod
    def deformable(self) -> int:
        """The number of deformable convolutions."""

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """The channels of the stages, for people."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs; all but those of relatives have one, the images."""
        return (INPUT,)

    @property
    def channels(self) -> dict[str, int]:
        """The channels of each output map."""
        return {head.name: head.channels for head in self.heads}
