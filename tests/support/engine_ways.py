"""A plugin whose option ``way`` has ways that are right, wrong, refused, slow …, and a GPU on which they are so.

Engines are built by the genuine TensorRT-RTX, each graph once. They are run by `support.tensorrt_double`, whose engine
computes ``twice`` = 2x and ``sums`` = the sums of rows whatever the plan is; faults make it do otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.tensorrt_double import World

from convkit import EngineProbe, NodeRewrite, Option, Target, hookimpl
from convkit.backends import Engine, tensorrt
from convkit.backends.tensorrt import FLAVOURS, _bindings, _gpu, _runtime
from convkit.backends.tensorrt._backend import TensorRT
from convkit.backends.tensorrt._registrations import Registrations
from convkit.errors import EnvironmentProblem, SettingError
from convkit.files import sha256
from convkit.progress import silent

COLUMNS = 6


def model(dtype: str, factor: float = 2) -> onnx.ModelProto:
    """Return the model of the double's engine."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constant = onnx.numpy_helper.from_array(np.array(factor, dtype), "factor")
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["twice"], name="mul"),
        helper.make_node("ReduceSum", ["x", "axes"], ["sums"], name="sum", keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("twice", kind, ["batch", COLUMNS]),
        helper.make_tensor_value_info("sums", kind, ["batch"]),
    ]
    x = helper.make_tensor_value_info("x", kind, ["batch", COLUMNS])
    graph = helper.make_graph(nodes, "ways", [x], outputs, [constant, axes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def inputs(batch: int) -> Mapping[str, np.ndarray]:
    values = np.random.default_rng(batch).integers(-8, 8, (batch, COLUMNS)) / 4
    return {"x": values.astype(np.float32)}


class _Misread(NodeRewrite):
    """Makes another graph of it, which the parser takes as it is: only the engine's outputs show it."""

    name, reason, phase, op_types = "ways.misread", "to be found", "target", ("Mul",)

    def match(self, graph: Any, node: Any) -> Any:
        return True

    def rewrite(self, graph: Any, node: Any, match: Any) -> None:
        node.op = "Div"


class _Strange(_Misread):
    """Makes a node that the parser does not take."""

    name = "ways.strange"

    def rewrite(self, graph: Any, node: Any, match: Any) -> None:
        node.op, node.domain = "NoSuchOperator", "nowhere"


class _Misparsed(_Misread):
    """Makes a node that the parser takes and builds as another one: without ``upper`` it keeps the wrong triangle."""

    name = "ways.misparsed"

    def rewrite(self, graph: Any, node: Any, match: Any) -> None:
        node.op = "Trilu"
        del node.inputs[1]


@dataclass
class Ways:
    """The plugin: its ways are those that are given; ``model`` and ``inputs`` may be replaced."""

    ways: tuple[str, ...] = ("good",)
    model: Callable[[str], onnx.ModelProto] = model
    inputs: Callable[[int], Mapping[str, np.ndarray]] = inputs
    probes: tuple[EngineProbe, ...] | None = None

    @hookimpl
    def convkit_options(self) -> list[Option]:
        return [Option("way", "auto", "a way", ("auto", *self.ways))]

    @hookimpl
    def convkit_engine_probes(self) -> list[EngineProbe]:
        if self.probes is not None:
            return list(self.probes)
        return [
            EngineProbe("small", "way", self.model, self.inputs, (1, 2, 3)),
            EngineProbe("real", "way", self.model, self.inputs, (1, 2, 3), timed=True),
        ]

    @hookimpl
    def convkit_graph_rewrites(self, target: Target) -> list[NodeRewrite]:
        way = target.options.get("way", "auto")
        if way == "refused":
            raise SettingError("This flavour has no such way.", hint="Take another.")
        return {"misread": [_Misread()], "misparsed": [_Misparsed()], "strange": [_Strange()]}.get(way, [])


@dataclass
class Bench:
    """The stand-in of a GPU with its faults: for each way a function that sets them.

    ``crashes`` says for a way when its process ends: ``run``, ``reload``, or ``after`` it ran. ``now`` is the way that
    is tried, ``calls`` the way, and whether convkit's plugins were to be loaded, of each process.
    """

    world: World
    faults: dict[str, Callable[[World], None]] = field(default_factory=dict)
    crashes: dict[str, str] = field(default_factory=dict)
    now: str = ""
    calls: list[tuple[str, bool]] = field(default_factory=list)

    def progress(self, step: str, done: int = 0, total: int = 0) -> None:
        self.now = step.partition("=")[2].partition(":")[0]

    def in_process(self, place: str, argument: Any, *, plugins: bool = True, time_limit: float = 0) -> Any:
        """Take the place of `in_fresh_process`."""
        module, _, name = place.partition(":")
        function = getattr(importlib.import_module(module), name)
        argument = json.loads(json.dumps(argument))
        if name == "describe_library":
            return _library(place, json.dumps({**argument, "runtime": False})) | {"runtime": ""}
        self.calls.append((self.now, plugins))
        stage = "run" if argument["changes"] else "reload"
        crash = self.crashes.get(self.now, "")
        World.__init__(self.world, tensorrt_rtx(), self.world.logger)
        self.faults.get(self.now, lambda world: None)(self.world)
        if crash == stage:
            raise EnvironmentProblem("The process was ended by SIGSEGV.", hint="Its last words: none")
        result = json.loads(json.dumps(function(argument)))
        if (crash, stage) == ("after", "run"):
            raise EnvironmentProblem("The process was ended by SIGSEGV.", hint="Its last words: none")
        return result


GENUINE = tensorrt.in_fresh_process
BUILD = TensorRT.build


@functools.cache
def _library(place: str, argument: str) -> dict[str, Any]:
    return GENUINE(place, json.loads(argument))


_built: dict[str, tuple[Engine, bytes | None]] = {}


def _build_once(backend: TensorRT, graph: Path, folder: Path, request: Any, progress: Any = silent) -> Engine:
    """Take the place of `TensorRT.build`."""
    key = sha256(graph)
    if key not in _built:
        engine = BUILD(backend, graph, folder, request, progress)
        _built[key] = engine, engine.file.read_bytes() if engine.file.is_file() else None
    engine, plan = _built[key]
    if plan is not None:
        (folder / "model.plan").write_bytes(plan)
    return dataclasses.replace(engine, file=folder / "model.plan")


def tensorrt_rtx() -> Any:
    return importlib.import_module(FLAVOURS["tensorrt-rtx"].module)


def make_bench(monkeypatch: pytest.MonkeyPatch, cache: Path, capability: str = "8.6") -> Bench:
    """Return a bench that the doctor will use, in place of processes and of the GPU."""
    sinks: list[Any] = []
    world = World(tensorrt_rtx(), _bindings._make_logger(tensorrt_rtx(), sinks))
    monkeypatch.setitem(_runtime._loaded, "tensorrt-rtx", Registrations(
        _bindings.Bindings(FLAVOURS["tensorrt-rtx"], world.api, world.logger, sinks)))  # fmt: skip
    gpu = type(world.gpu)
    monkeypatch.setattr(gpu, "compute_capability", capability)
    monkeypatch.setattr(_gpu, "Gpu", lambda device: World.now.gpu)
    monkeypatch.setattr(tensorrt, "Gpu", lambda device: World.now.gpu, raising=False)
    bench = Bench(world)
    monkeypatch.setattr(tensorrt, "in_fresh_process", bench.in_process, raising=False)
    monkeypatch.setattr(TensorRT, "build", _build_once)
    monkeypatch.setenv("CONVKIT_CACHE", str(cache))
    return bench
