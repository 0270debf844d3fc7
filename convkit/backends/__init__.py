"""Inference engines: what a backend is, and how to get one by name."""

from convkit.backends._backend import Backend, DeviceSession, Session, find_backend, open_session
from convkit.backends._tensorrt_plugin import TensorRTPlugin

__all__ = [
    "Backend",
    "DeviceSession",
    "Session",
    "TensorRTPlugin",
    "find_backend",
    "open_session",
]
