"""What the functions of onnx raise for a graph that they do not take."""

from __future__ import annotations

__all__ = ["onnx_errors"]


def onnx_errors() -> tuple[type[Exception], ...]:
    """Return the classes, for an ``except``: onnx's own, protobuf's, and what pybind makes of C++'s."""
    import onnx
    from google.protobuf.message import Error  # type: ignore[import-untyped]

    own = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, Error)
    return (
        *own,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        MemoryError,
        OSError,
    )
