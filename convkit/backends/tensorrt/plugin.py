"""The plugin that offers both flavours of TensorRT as backends, and the settings of their builds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from convkit.backends import Backend
    from convkit.model import Option


@hookimpl
def convkit_backends() -> Iterable[Backend]:
    """Offer TensorRT-RTX and TensorRT."""
    from convkit.backends.tensorrt._backend import TensorRT
    from convkit.backends.tensorrt._flavour import FLAVOURS

    return [TensorRT(flavour) for flavour in FLAVOURS.values()]


@hookimpl
def convkit_options() -> Iterable[Option]:
    """Offer what can be set for a build."""
    from convkit.backends.tensorrt._options import OPTIONS

    return OPTIONS
