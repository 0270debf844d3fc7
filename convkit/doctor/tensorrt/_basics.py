"""What every engine rests on: one convolution, the cache of kernel times, and the order of a plugin's arguments."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.backends import Backend
from convkit.doctor.tensorrt._flavour import ARGUMENT_ORDER
from convkit.doctor.tensorrt._steps import FAILED, PASSED, WRONG, Steps
from convkit.doctor.tensorrt._trial import EXAMINE, Subject, try_engine

if TYPE_CHECKING:
    import onnx

    from convkit.backends.tensorrt import Flavour

__all__ = ["try_argument_order", "try_convolution", "try_timing_cache"]

_SHAPE = (8, 16, 16)
_LENGTHS = (5, 100, 1000)
"""Lengths of the argument-order probe: lowest, best, highest."""


def try_convolution(steps: Steps, backend: Backend, *, targets: Sequence[str], no_gpu: str) -> None:
    """Make the steps of an engine of one convolution, which any TensorRT runs."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((8, _SHAPE[0], 3, 3)).astype(np.float16).astype(np.float32) / 8
    cases = []
    for batch in (2, 1):
        x = generator.standard_normal((batch, *_SHAPE)).astype(np.float16).astype(np.float32)
        cases.append(({"x": x}, {"y": _convolve(x, weight)}))
    ranges = {"x": ((1, *_SHAPE), (2, *_SHAPE), (2, *_SHAPE))}
    model = _convolution(weight)
    subject = Subject("convolution", "", model, "float32", cases, ranges, [cases[0][0]])
    with tempfile.TemporaryDirectory(prefix="convkit-doctor-", ignore_cleanup_errors=True) as folder:
        try_engine(steps, backend, subject, Path(folder), targets=targets, no_gpu=no_gpu)


def try_timing_cache(steps: Steps, flavour: Flavour, *, targets: Sequence[str]) -> None:
    """Build twice with one file of kernel times: the first build writes it, the second reads it."""
    import onnx

    from convkit.backends.tensorrt import Build, Task, run_tasks

    with (
        steps.step(flavour.name, "timing cache") as step,
        tempfile.TemporaryDirectory(prefix="convkit-doctor-", ignore_cleanup_errors=True) as name,
    ):
        model, times = Path(name, "model.onnx"), Path(name, "cache.times")
        onnx.save(_convolution(np.ones((8, _SHAPE[0], 3, 3), np.float32)), str(model))
        build = Build(tuple(targets), {"x": ((1, *_SHAPE),) * 3}, timing_cache=times)
        sizes = []
        for _ in range(2):
            (outcome,) = run_tasks(flavour, [Task(model, build=build)])
            if outcome.problem is not None:
                raise outcome.problem
            sizes.append(times.stat().st_size if times.is_file() else 0)
            if outcome.plan is None or not sizes[-1]:
                step.set(FAILED, "a build does not write the times of its kernels", "Give --set timing-cache=no.")
                return
        step.set(PASSED, f"{sizes[0]} bytes written, and read by the next build", bytes=sizes)


def try_argument_order(steps: Steps, backend: Backend, flavour: Flavour, *, targets: Sequence[str]) -> None:
    """Build and run a plugin that writes back its arguments; needs a GPU."""
    import onnx

    from convkit.backends.tensorrt import (
        Build,
        Task,
        argument_order_faults,
        argument_order_inputs,
        argument_order_model,
        in_fresh_process,
        run_tasks,
    )

    with (
        steps.step(flavour.name, "argument order") as step,
        tempfile.TemporaryDirectory(prefix="convkit-doctor-", ignore_cleanup_errors=True) as name,
    ):
        model, plan = Path(name, "model.onnx"), Path(name, "model.plan")
        onnx.save(argument_order_model(), str(model))
        low, best, high = ((length,) for length in _LENGTHS)
        build = Build(tuple(targets), dict.fromkeys(("first", "second"), (low, best, high)))
        (outcome,) = run_tasks(flavour, [Task(model, build=build, plugins=(ARGUMENT_ORDER,))])
        if outcome.problem is not None:
            raise outcome.problem
        if outcome.plan is None:
            reasons = [*map(str, outcome.errors), *filter(None, outcome.targets.values())]
            step.set(FAILED, "; ".join(reasons) or "no engine was built", log=list(outcome.log))
            return
        plan.write_bytes(outcome.plan)
        files, outputs, feeds = [], [], []
        for index, length in enumerate(_LENGTHS):
            feeds.append(argument_order_inputs(length))
            files.append(str(Path(name, f"inputs{index}.npz")))
            outputs.append(str(Path(name, f"outputs{index}.npz")))
            np.savez(files[-1], **feeds[-1])  # type: ignore[arg-type]
        job: dict[str, Any] = {
            "flavour": backend.name, "plan": str(plan), "targets": list(targets), "details": {}, "inputs": files,
            "outputs": outputs, "changes": 0, "runs": 0,
        }  # fmt: skip
        in_fresh_process(EXAMINE, job, plugins=False)
        faults = []
        for feed, file in zip(feeds, outputs, strict=True):
            with np.load(file, allow_pickle=False) as archive:
                faults += argument_order_faults(feed, {key: archive[key] for key in archive.files})
        if faults:
            remedy = "Do not use dcn=plugin with this version, and report it with this examination."
            step.set(WRONG, "; ".join(dict.fromkeys(faults)), remedy, faults=faults)
        else:
            step.set(PASSED, f"inputs, integers, outputs: all arrive, at the lengths {', '.join(map(str, _LENGTHS))}")


def _convolution(weight: np.ndarray) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *_SHAPE])

    node = helper.make_node("Conv", ["x", "weight"], ["y"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    graph = helper.make_graph([node], "conv", [tensor("x")], [tensor("y")], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the 3x3 convolution with a padding of 1, in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    result: np.ndarray = np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64))
    return result
