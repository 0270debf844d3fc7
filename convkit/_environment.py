"""What libraries read from the environment when they are first loaded: set before any module of convkit loads one.

A value that the user has set is kept.
"""

from __future__ import annotations

import os

__all__ = ["MOST_PIXELS", "PIXELS_VARIABLE"]

MOST_PIXELS = 1 << 27
"""Pixels of the largest image that is read: 134 million, so that 16-bit ones stay below a gigabyte."""
PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"

os.environ.setdefault(PIXELS_VARIABLE, str(MOST_PIXELS))
# ONNX Runtime 1.32 and later write a device identifier and an event store, and contact their vendor.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# PyTorch asks Linux for large pages, which saves it half of the time of a convolution in float64 on the CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
