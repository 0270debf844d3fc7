"""TensorRT-RTX and TensorRT: what NVIDIA's parser makes of an ONNX file, whether that is what the file says, engines.

`check_model` does all of it; `run_tasks` parses and builds in a child process, `understand` replays a parsed network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convkit.backends._ladder import Ladder, Rung

if TYPE_CHECKING:
    from convkit.backends.tensorrt._argument_order import (
        argument_order_faults,
        argument_order_inputs,
        argument_order_model,
    )
    from convkit.backends.tensorrt._argument_order_plugin import register_argument_order
    from convkit.backends.tensorrt._audit import Audit, FloatLayer, audit
    from convkit.backends.tensorrt._check import check_model, random_inputs, read_inputs
    from convkit.backends.tensorrt._child import Build, Outcome, ParserError, Task, run_tasks
    from convkit.backends.tensorrt._examine import examine_engine
    from convkit.backends.tensorrt._flavour import FLAVOURS, Flavour, find_flavour
    from convkit.backends.tensorrt._fresh_process import in_fresh_process
    from convkit.backends.tensorrt._gpu import Gpu
    from convkit.backends.tensorrt._library import describe_library
    from convkit.backends.tensorrt._network import ParsedLayer, ParsedNetwork, ParsedTensor
    from convkit.backends.tensorrt._reference import OnnxReference
    from convkit.backends.tensorrt._replay import NotReplayed, ReplayError, missing_replays, replay
    from convkit.backends.tensorrt._shapes import GraphInput, ShapeRange, graph_inputs, parse_ranges
    from convkit.backends.tensorrt._targets import parse_targets
    from convkit.backends.tensorrt._understand import Parting, Understanding, understand

__all__ = [
    "FLAVOURS",
    "Audit",
    "Build",
    "Flavour",
    "FloatLayer",
    "Gpu",
    "GraphInput",
    "Ladder",
    "NotReplayed",
    "OnnxReference",
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
    "argument_order_faults",
    "argument_order_inputs",
    "argument_order_model",
    "audit",
    "check_model",
    "describe_library",
    "examine_engine",
    "find_flavour",
    "graph_inputs",
    "in_fresh_process",
    "missing_replays",
    "parse_ranges",
    "parse_targets",
    "random_inputs",
    "read_inputs",
    "register_argument_order",
    "replay",
    "run_tasks",
    "understand",
]

_HOMES = {
    "_audit": (
        "Audit",
        "FloatLayer",
        "audit",
    ),
    "_argument_order": (
        "argument_order_faults",
        "argument_order_inputs",
        "argument_order_model",
    ),
    "_argument_order_plugin": ("register_argument_order",),
    "_check": (
        "check_model",
        "random_inputs",
        "read_inputs",
    ),
    "_child": (
        "Build",
        "Outcome",
        "ParserError",
        "Task",
        "run_tasks",
    ),
    "_examine": ("examine_engine",),
    "_flavour": (
        "FLAVOURS",
        "Flavour",
        "find_flavour",
    ),
    "_fresh_process": ("in_fresh_process",),
    "_gpu": ("Gpu",),
    "_library": ("describe_library",),
    "_network": (
        "ParsedLayer",
        "ParsedNetwork",
        "ParsedTensor",
    ),
    "_reference": ("OnnxReference",),
    "_replay": (
        "NotReplayed",
        "ReplayError",
        "missing_replays",
        "replay",
    ),
    "_shapes": (
        "GraphInput",
        "ShapeRange",
        "graph_inputs",
        "parse_ranges",
    ),
    "_targets": ("parse_targets",),
    "_understand": (
        "Parting",
        "Understanding",
        "understand",
    ),
}
"""Where names are loaded from when they are first used: the plugin is light, and the child process needs no torch."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
