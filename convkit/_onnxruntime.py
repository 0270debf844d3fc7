"""ONNX Runtime with its telemetry off: the only module of convkit that imports onnxruntime.

From version 1.32 on, ONNX Runtime writes a device identifier below the home directory and an event store into the
temporary directory, and contacts its vendor. `ORT_DISABLE_TELEMETRY` prevents that only if it is set before the import.
A value that the user has set is kept. Import this module, too, before a call of a library that imports onnxruntime.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _library

__all__ = ["ONNXRUNTIME_ERRORS", "onnxruntime"]

_OWN = [kind for kind in vars(_library).values() if isinstance(kind, type) and issubclass(kind, Exception)]
ONNXRUNTIME_ERRORS: tuple[type[Exception], ...] = (*_OWN, RuntimeError, ValueError, TypeError, LookupError, MemoryError)
"""What ONNX Runtime raises for a graph or inputs that it does not take: its own classes, which have no common base, and
what pybind makes of C++'s."""
