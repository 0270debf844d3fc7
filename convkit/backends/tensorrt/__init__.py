"""TensorRT-RTX and TensorRT: what NVIDIA's parser makes of an ONNX file, whether that is what the file says, engines.

`check_model` does all of it; `run_tasks` parses and builds in a child process, `understand` replays a parsed network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convkit.backends._ladder import Ladder, Rung
from convkit.backends.tensorrt._child import Build, Outcome, ParserError, Task, run_tasks
from convkit.backends.tensorrt._flavour import FLAVOURS, Flavour, find_flavour
from convkit.backends.tensorrt._network import ParsedLayer, ParsedNetwork, ParsedTensor
from convkit.backends.tensorrt._shapes import GraphInput, ShapeRange, graph_inputs, parse_ranges
from convkit.backends.tensorrt._targets import parse_targets

if TYPE_CHECKING:
    from convkit.backends.tensorrt._check import check_model, random_inputs, read_inputs
    from convkit.backends.tensorrt._replay import NotReplayed, ReplayError, missing_replays, replay
    from convkit.backends.tensorrt._understand import Parting, Understanding, understand

__all__ = [
    "FLAVOURS",
    "Build",
    "Flavour",
    "GraphInput",
    "Ladder",
    "NotReplayed",
    "Outcome",
    "ParsedLayer",
    "ParsedNetwork",
    "ParsedTensor",
    "ParserError",
    "Parting",
    "ReplayError",
    "Rung",
    "ShapeRange",
    "Task",
    "Understanding",
    "check_model",
    "find_flavour",
    "graph_inputs",
    "missing_replays",
    "parse_ranges",
    "parse_targets",
    "random_inputs",
    "read_inputs",
    "replay",
    "run_tasks",
    "understand",
]

_LAZY = {
    "_check": ("check_model", "random_inputs", "read_inputs"),
    "_replay": ("NotReplayed", "ReplayError", "missing_replays", "replay"),
    "_understand": ("Parting", "Understanding", "understand"),
}
"""What imports torch, or may: loaded when it is asked for, since the child process needs none of it."""


def __getattr__(name: str) -> Any:
    import importlib

    for module, names in _LAZY.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
