"""What is built: file format, opset, output form and precision."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """What is built: the file format, the opset, the output form and the precision."""

    format: str = "onnx"
    opset: int = 20
    form: str = "default"
    precision: str = "fp32"
