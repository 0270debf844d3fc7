"""What convkit knows of TensorRT without TensorRT: which plugins serve which ONNX nodes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TensorRTPlugin"]


@dataclass(frozen=True)
class TensorRTPlugin:
    """A TensorRT plugin that runs ONNX nodes of type ``op_type``.

    ``source`` says where it comes from: ``"shipped"`` for NVIDIA's own plugin library, else the
    distribution that brings it. ``note`` tells what a user has to know, for example dtypes.
    """

    op_type: str
    plugin: str
    version: str
    source: str = "shipped"
    note: str = ""
