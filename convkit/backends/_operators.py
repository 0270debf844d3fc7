"""Which operators of a graph ONNX itself and ONNX Runtime know."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["foreign_operators", "proving_backend"]

_KNOWN = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""The domains of operators that ONNX Runtime runs on a CPU."""


def foreign_operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a graph that ONNX Runtime lacks, as ``domain::type``, each once."""
    found = (f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain not in _KNOWN)
    return list(dict.fromkeys(found))


def proving_backend(model: onnx.ModelProto) -> str:
    """Return the backend that runs a graph to prove it: ONNX Runtime, or torch with the operators of plugins."""
    return "torch" if foreign_operators(model) else "onnxruntime"
