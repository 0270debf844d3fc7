"""The plugin that offers both flavours of TensorRT as backends, and the settings of their builds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from convkit.backends import Backend
    from convkit.graph import Rewrite
    from convkit.model import Option, Target


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


@hookimpl
def convkit_graph_rewrites(target: Target) -> Iterable[Rewrite]:
    """Keep float32 what engines cannot be built for in bfloat16."""
    if target.precision != "bf16" or target.format != "tensorrt-rtx":
        return []
    from convkit.backends.tensorrt._float32_islands import Float32Islands

    return [Float32Islands()]
