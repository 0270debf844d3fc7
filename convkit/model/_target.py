"""What is built: file format, opset, output form, precision, and the adapter's options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """What the hooks learn of the result: its format, opset, output form, precision, and the adapter's options."""

    format: str = "onnx"
    opset: int = 20
    form: str = "default"
    precision: str = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)
