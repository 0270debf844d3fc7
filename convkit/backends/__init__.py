"""Backends: what builds engines and runs them, how to get one by name, and the ladder of an engine's proof."""

from convkit.backends._artifact import (
    Coverage,
    coverage,
    device_kind,
    open_artifact,
    proved_engine,
    validate_command,
)
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
)
from convkit.backends._engine_probe import EngineProbe, engine_probes, ways_of
from convkit.backends._guarded import open_engine, open_session
from convkit.backends._ladder import FAILED, NOT_APPLICABLE, NOT_REPLAYED, PASSED, PENDING, RUNGS, Ladder, Rung
from convkit.backends._operators import foreign_operators, proving_backend
from convkit.backends._tensorrt_plugin import TensorRTPlugin, load_function, own_plugins

__all__ = [
    "FAILED",
    "NOT_APPLICABLE",
    "NOT_REPLAYED",
    "PASSED",
    "PENDING",
    "RUNGS",
    "Backend",
    "BuildRequest",
    "Coverage",
    "DeviceSession",
    "Engine",
    "EngineProbe",
    "Ladder",
    "Rung",
    "Session",
    "TensorRTPlugin",
    "backend_named",
    "coverage",
    "device_kind",
    "engine_probes",
    "find_backend",
    "find_builder",
    "find_graph_backend",
    "foreign_operators",
    "load_function",
    "open_artifact",
    "open_engine",
    "open_session",
    "own_plugins",
    "proved_engine",
    "proving_backend",
    "validate_command",
    "ways_of",
]
