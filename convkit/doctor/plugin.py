"""The plugin with the known errors of PyTorch, ONNX, ONNX Runtime, CUDA, TensorRT and their surroundings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from convkit import KnownError


@hookimpl(trylast=True)
def convkit_known_errors() -> Iterable[KnownError]:
    """Return the core's known errors; other plugins, which know more of their part, come first."""
    from pathlib import Path

    from convkit.doctor import KnownError

    return KnownError.read(Path(__file__).with_name("known_errors.toml"))
