"""Backends: what builds engines and runs them, and how to get one by name."""

from convkit.backends._backend import Backend, DeviceSession, Engine, Session, find_backend, open_session
from convkit.backends._tensorrt_plugin import TensorRTPlugin

__all__ = [
    "Backend",
    "DeviceSession",
    "Engine",
    "Session",
    "TensorRTPlugin",
    "find_backend",
    "open_session",
]
