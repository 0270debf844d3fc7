"""One convolution, the cache of kernel times and the order of arguments; child processes answer as they are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convkit.backends import backend_named, tensorrt
from convkit.backends.tensorrt import FLAVOURS, Outcome, ParserError
from convkit.doctor.tensorrt import FAILED, PASSED, SKIPPED, WRONG, Step
from convkit.doctor.tensorrt._basics import _convolve, try_argument_order, try_convolution, try_timing_cache
from convkit.doctor.tensorrt._steps import Steps
from convkit.errors import EnvironmentProblem, KernelError
from convkit.progress import silent

FULL = FLAVOURS["tensorrt"]


def answer_tasks(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Outcome]) -> list[Any]:
    """Let each task of TensorRT have this outcome; return the tasks."""
    seen: list[Any] = []

    def run(flavour: Any, tasks: Any, **how: Any) -> list[Outcome]:
        seen.extend(tasks)
        return [answer(task) for task in tasks]

    monkeypatch.setattr(tensorrt, "run_tasks", run, raising=False)
    return seen


def right(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what the kernel writes if its arguments are in order."""
    count = len(inputs["first"])
    numbers = inputs["first"].copy()
    numbers[:3] = (7, count, 3 * count)
    return {"numbers": numbers, "copy": inputs["second"]}


def order(monkeypatch: pytest.MonkeyPatch, compute: Any, outcome: Outcome | None = None) -> tuple[Step, list[Any]]:
    jobs: list[Any] = []

    def fresh(place: str, job: Any, *, plugins: bool = True) -> Any:
        jobs.append((json.loads(json.dumps(job)), plugins))
        if isinstance(compute, Exception):
            raise compute
        assert Path(job["plan"]).read_bytes() == b"plan"
        for source, target in zip(job["inputs"], job["outputs"], strict=True):
            with np.load(source) as archive:
                np.savez(target, **compute({name: archive[name] for name in archive.files}))
        return {}

    monkeypatch.setattr(tensorrt, "in_fresh_process", fresh, raising=False)
    tasks = answer_tasks(monkeypatch, lambda task: outcome or Outcome(plan=b"plan"))
    steps = Steps(silent)
    try_argument_order(steps, backend_named("tensorrt"), FULL, targets=("sm89",))
    assert tasks[0].plugins == ("convkit.backends.tensorrt:register_argument_order",)
    (made,) = steps.made
    return made, jobs


def test_arguments_in_order_at_several_lengths_without_any_plugin_loaded(monkeypatch):
    made, jobs = order(monkeypatch, right)
    assert made.state == PASSED
    ((job, plugins),) = jobs
    assert len(job["inputs"]) == 3
    assert plugins is False


def test_arguments_out_of_order(monkeypatch):
    made, _ = order(monkeypatch, lambda inputs: {**right(inputs), "copy": inputs["first"]})
    assert made.state == WRONG
    assert "the second output" in made.text
    assert "dcn=plugin" in made.remedy


def test_a_crash_of_the_kernel_is_a_failure(monkeypatch):
    made, _ = order(monkeypatch, EnvironmentProblem("illegal memory access"))
    assert (made.state, made.text) == (FAILED, "illegal memory access")


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome(errors=(ParserError("no such plugin", 0, "order", "ArgumentOrder"),)), "no such plugin"),
        (Outcome(targets={"sm89": "no format"}), "no format"),
        (Outcome(problem=KernelError("the kernel does not compile")), "does not compile"),
    ],
)
def test_a_plugin_that_is_not_built(outcome, text, monkeypatch):
    made, jobs = order(monkeypatch, right, outcome)
    assert made.state == FAILED
    assert text in made.text
    assert jobs == []


@pytest.mark.parametrize(
    ("writes", "plan", "state"), [(b"times", b"plan", PASSED), (b"", b"plan", FAILED), (b"times", None, FAILED)]
)
def test_the_cache_of_kernel_times(writes, plan, state, monkeypatch):
    def build(task: Any) -> Outcome:
        if writes:
            task.build.timing_cache.write_bytes(writes)
        return Outcome(plan=plan)

    tasks = answer_tasks(monkeypatch, build)
    steps = Steps(silent)
    try_timing_cache(steps, FULL, targets=("sm89",))
    assert steps.made[0].state == state
    if state == PASSED:
        assert tasks[0].build.timing_cache == tasks[1].build.timing_cache
        assert steps.made[0].details["bytes"] == [5, 5]


def test_a_convolution_is_built_by_the_genuine_library_and_not_run_without_a_gpu():
    pytest.importorskip(FLAVOURS["tensorrt-rtx"].module)
    steps = Steps(silent)
    try_convolution(steps, backend_named("tensorrt-rtx"), targets=("sm86",), no_gpu="there is no GPU")
    states = {step.name: step.state for step in steps.made}
    assert states == {
        "convolution: built": PASSED, "convolution: ran": SKIPPED, "convolution: loaded again": SKIPPED,
        "convolution: 200 changes of shape": SKIPPED,
    }  # fmt: skip


def test_its_reference_is_that_of_pytorch():
    import torch

    generator = np.random.default_rng(0)
    x, weight = generator.standard_normal((2, 3, 5, 7)), generator.standard_normal((4, 3, 3, 3))
    wanted = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=1)
    np.testing.assert_allclose(_convolve(x, weight), wanted.numpy(), rtol=1e-12, atol=1e-12)
