"""ONNX Runtime as it is where it computes less exactly than PyTorch: what it returns is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from convkit import Engine, Session
from convkit.backends import backend_named

__all__ = ["change_onnxruntime"]


class _Changed(Session):
    def __init__(self, inner: Session, change: Callable[[np.ndarray], Any]) -> None:
        self.inner, self.device, self.change = inner, inner.device, change

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self.inner.run(inputs)
        return {
            name: np.asarray(self.change(value), value.dtype) if value.dtype.kind == "f" else value
            for name, value in found.items()
        }


def change_onnxruntime(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], Any]) -> None:
    """Let every session of ONNX Runtime return ``change`` of each floating output."""
    kind = type(backend_named("onnxruntime"))
    genuine = kind.open

    def opened(self: Any, engine: Engine, *, device: str = "cpu") -> Session:
        return _Changed(genuine(self, engine, device=device), change)

    monkeypatch.setattr(kind, "open", opened)
