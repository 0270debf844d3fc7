"""Backends: what builds engines and runs them, how to get one by name, and the ladder of an engine's proof."""

from convkit.backends._artifact import open_artifact, unproved_reason
from convkit.backends._backend import (
    Backend,
    BuildRequest,
    DeviceSession,
    Engine,
    Session,
    backend_named,
    find_backend,
    find_builder,
    find_graph_backend,
    open_session,
)
from convkit.backends._engine_probe import EngineProbe, engine_probes, ways_of
from convkit.backends._ladder import FAILED, NOT_REPLAYED, PASSED, PENDING, Ladder, Rung
from convkit.backends._operators import foreign_operators, proving_backend
from convkit.backends._tensorrt_plugin import TensorRTPlugin, load_function, own_plugins

__all__ = [
    "FAILED",
    "NOT_REPLAYED",
    "PASSED",
    "PENDING",
    "Backend",
    "BuildRequest",
    "DeviceSession",
    "Engine",
    "EngineProbe",
    "Ladder",
    "Rung",
    "Session",
    "TensorRTPlugin",
    "backend_named",
    "engine_probes",
    "find_backend",
    "find_builder",
    "find_graph_backend",
    "foreign_operators",
    "load_function",
    "open_artifact",
    "open_session",
    "own_plugins",
    "proving_backend",
    "unproved_reason",
    "ways_of",
]
