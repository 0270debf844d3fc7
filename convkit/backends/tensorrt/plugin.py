"""The plugin that offers both flavours of TensorRT as backends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from convkit.backends import Backend


@hookimpl
def convkit_backends() -> Iterable[Backend]:
    """Offer TensorRT-RTX and TensorRT."""
    from convkit.backends.tensorrt._backend import TensorRT
    from convkit.backends.tensorrt._flavour import FLAVOURS

    return [TensorRT(flavour) for flavour in FLAVOURS.values()]
