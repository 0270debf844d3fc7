"""One model as an engine: built, run, compared, loaded again, run in changing shapes, timed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.backends import FAILED as RUNG_FAILED
from convkit.backends import Backend, BuildRequest, Engine
from convkit.doctor.tensorrt._steps import FAILED, NOT_OFFERED, PASSED, SKIPPED, WRONG, OpenStep, Steps
from convkit.errors import ConvkitError

if TYPE_CHECKING:
    import onnx

__all__ = ["CHANGES", "LIMITS", "STAGES", "Subject", "Trial", "try_engine"]

CHANGES = 200
"""Changes of shape after which memory must not have grown."""
RUNS = 100
"""Runs whose median is the latency."""
LIMITS = {"float32": 2e-3, "float16": 1e-2}
"""The largest error allowed, as a part of the largest value of an output. Engines may multiply float32 in TF32."""
GROWTH = 8 * 2**20
"""Bytes by which the memory may differ after all changes: allocations are rounded up, other programs come and go."""
STAGES = ("built", "ran", "loaded again", f"{CHANGES} changes of shape", "latency")
EXAMINE = "convkit.backends.tensorrt:examine_engine"


@dataclass(frozen=True)
class Subject:
    """A model to try: how it is called, the graph, and what it has to compute.

    ``cases`` are inputs (float32) by name with the float64 outputs that they have to give, the best shapes first.
    ``plain_feeds`` are inputs in the graph's types on which the parser's understanding is compared. Without ``timed``
    no latency is measured.
    """

    name: str
    case: str
    model: onnx.ModelProto
    dtype: str
    cases: Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]
    ranges: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    plain_feeds: Sequence[Mapping[str, np.ndarray]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    timed: bool = False


@dataclass
class Trial:
    """What came of a trial: the states by stage, and the median latency in milliseconds if one was measured."""

    states: dict[str, str] = field(default_factory=dict)
    milliseconds: float | None = None
    reason: str = ""
    """Why it is not offered."""

    @property
    def right(self) -> bool:
        """Whether it was built, ran, computed rightly and did so again when it was loaded in another process."""
        return all(self.states.get(stage) == PASSED for stage in STAGES[:3])


def try_engine(
    steps: Steps, backend: Backend, subject: Subject, folder: Path, *, targets: Sequence[str], no_gpu: str
) -> Trial:
    """Make the steps of one model; ``no_gpu`` says why engines cannot run here, empty where they can."""
    trial = Trial()
    stages = STAGES if subject.timed else STAGES[:-1]
    engine = _build(steps, backend, subject, folder, targets, trial)
    if engine is None or no_gpu:
        reason = no_gpu or f"there is no engine: it is {trial.states['built']}"
        if trial.states["built"] != NOT_OFFERED:
            for stage in stages[1:]:
                _note(steps, backend, subject, trial, stage, SKIPPED, reason)
        return trial
    result = _run(steps, backend, subject, folder, engine, trial)
    _reload(steps, backend, subject, folder, engine, trial)
    _memory(steps, backend, subject, result, trial)
    if subject.timed:
        _latency(steps, backend, subject, result, trial)
    return trial


def _note(steps: Steps, backend: Backend, subject: Subject, trial: Trial, stage: str, state: str, text: str) -> None:
    trial.states[stage] = state
    steps.note(backend.name, f"{subject.name}: {stage}", state, text, subject.case)


def _build(
    steps: Steps, backend: Backend, subject: Subject, folder: Path, targets: Sequence[str], trial: Trial
) -> Engine | None:
    import onnx

    engine = None
    with steps.step(backend.name, f"{subject.name}: built", subject.case) as step:
        graph = folder / "model.onnx"
        onnx.save(subject.model, str(graph))
        request = BuildRequest(tuple(targets), subject.ranges, subject.plain_feeds, subject.options)
        engine = backend.build(graph, folder, request)
        step.details["ladder"] = engine.ladder.to_json()
        failed = next((rung for rung in engine.ladder.rungs if rung.status == RUNG_FAILED), None)
        if failed is None:
            rungs = {rung.name: rung for rung in engine.ladder.rungs}
            told = ("understood", "built") if subject.plain_feeds else ("built",)
            step.set(PASSED, " ".join(rungs[name].summary for name in told))
        elif failed.name == "accepted":
            step.set(NOT_OFFERED, failed.summary)
            trial.reason = failed.summary
        else:
            step.set(WRONG if failed.name == "understood" else FAILED, f"{failed.name}: {failed.summary}")
    made = steps.made[-1]
    trial.states["built"] = made.state
    return engine if made.state == PASSED else None


def _job(backend: Backend, subject: Subject, folder: Path, engine: Engine, outputs: str, **how: int) -> dict[str, Any]:
    files = []
    for index, (inputs, _) in enumerate(subject.cases):
        files.append(str(folder / f"inputs{index}.npz"))
        np.savez(files[-1], **inputs)  # type: ignore[arg-type]
    return {
        "flavour": backend.name, "plan": str(engine.file), "targets": list(engine.targets),
        "details": {"plugins": engine.details.get("plugins", []), "settings": engine.details.get("settings", {})},
        "inputs": files, "outputs": [str(folder / f"{outputs}{index}.npz") for index in range(len(files))],
        "changes": 0, "runs": 0, **how,
    }  # fmt: skip


def _run(
    steps: Steps, backend: Backend, subject: Subject, folder: Path, engine: Engine, trial: Trial
) -> dict[str, Any]:
    """Run the engine for its outputs, its memory and its latency; the later steps read the last two."""
    from convkit.backends.tensorrt import in_fresh_process

    result: dict[str, Any] = {}
    with steps.step(backend.name, f"{subject.name}: ran", subject.case) as step:
        runs = RUNS if subject.timed else 0
        job = _job(backend, subject, folder, engine, "ran", changes=CHANGES, runs=runs)
        try:
            result = in_fresh_process(EXAMINE, job)
        except ConvkitError as error:
            # A process may end after it has written its outputs: they count, and the error is that of what followed.
            if not all(Path(file).is_file() for file in job["outputs"]):
                raise
            result = {"errors": dict.fromkeys(("changes", "runs"), f"{error.message} {error.hint}".strip())}
        step.details["machine"] = result.get("machine", {})
        _judge(step, subject, job["outputs"])
    trial.states["ran"] = steps.made[-1].state
    return result


def _reload(steps: Steps, backend: Backend, subject: Subject, folder: Path, engine: Engine, trial: Trial) -> None:
    """Run the plan in another process, without any plugin of convkit where the plan needs none."""
    from convkit.backends.tensorrt import in_fresh_process

    if trial.states["ran"] == FAILED:
        _note(steps, backend, subject, trial, STAGES[2], SKIPPED, "the engine does not run: failed")
        return
    needs = engine.details.get("plugins", [])
    with steps.step(backend.name, f"{subject.name}: loaded again", subject.case) as step:
        job = _job(backend, subject, folder, engine, "again")
        in_fresh_process(EXAMINE, job, plugins=bool(needs))
        _judge(step, subject, job["outputs"])
        if step.state == PASSED:
            step.text += (
                f"; the process loads convkit's plugin {', '.join(needs)}" if needs else "; no plugin is needed"
            )
    trial.states["loaded again"] = steps.made[-1].state


def _judge(step: OpenStep, subject: Subject, files: Sequence[str]) -> None:
    """Compare outputs with what they have to be."""
    limit, worst, where = LIMITS[subject.dtype], 0.0, ""
    errors: dict[str, float] = {}
    for (inputs, expected), file in zip(subject.cases, files, strict=True):
        shape = "x".join(map(str, next(iter(inputs.values())).shape))
        with np.load(file, allow_pickle=False) as archive:
            outputs = {name: archive[name] for name in archive.files}
        for name, wanted in expected.items():
            found = outputs.get(name)
            if found is None or found.shape != wanted.shape:
                got = "missing" if found is None else f"of the shape {list(found.shape)}"
                step.set(WRONG, f"the output {name!r} is {got}; it should be {list(wanted.shape)}")
                return
            difference = np.abs(found.astype(np.float64) - wanted).max(initial=0.0)
            error = float(difference / (np.abs(wanted).max(initial=0.0) or 1.0))
            error = error if np.isfinite(error) else float("inf")
            errors[f"{name} {shape}"] = error
            if error >= worst:
                worst, where = error, f"{name} at {shape}"
    step.details.update(
        limit=limit, errors={key: value if np.isfinite(value) else None for key, value in errors.items()}
    )
    said = f"{worst:.1e} of the largest value" if np.isfinite(worst) else "not finite"
    if worst > limit:
        step.set(WRONG, f"the error of {where} is {said}; {limit:.0e} is allowed")
    else:
        step.set(PASSED, f"the largest error is {said}; {limit:.0e} is allowed")


def _memory(steps: Steps, backend: Backend, subject: Subject, result: Mapping[str, Any], trial: Trial) -> None:
    stage = STAGES[3]
    error, free = result.get("errors", {}).get("changes"), result.get("free_bytes")
    if error is None and free is None:
        _note(steps, backend, subject, trial, stage, SKIPPED, f"the engine does not run: {trial.states['ran']}")
        return
    with steps.step(backend.name, f"{subject.name}: {stage}", subject.case) as step:
        if free is None:
            step.set(FAILED, str(error), "Report it with this examination.")
        else:
            step.details["free_bytes"] = free
            growth = free[0] - free[-1]
            falls = sum(after < before for before, after in itertools.pairwise(free))
            # A leak takes memory in most quarters of the changes; another program takes it once.
            if growth > GROWTH and falls >= len(free) - 2:
                step.set(
                    FAILED,
                    f"the GPU's memory shrinks by {growth / 2**20:.0f} MiB in {CHANGES} changes",
                    "Build for one shape, or keep an engine for each (NVIDIA/TensorRT issue 4849).",
                )
            else:
                step.set(PASSED, f"the GPU's memory does not shrink ({max(growth, 0) / 2**20:.1f} MiB)")
    trial.states[stage] = steps.made[-1].state


def _latency(steps: Steps, backend: Backend, subject: Subject, result: Mapping[str, Any], trial: Trial) -> None:
    stage = STAGES[4]
    error, times = result.get("errors", {}).get("runs"), result.get("milliseconds")
    if error is None and times is None:
        _note(steps, backend, subject, trial, stage, SKIPPED, f"the engine does not run: {trial.states['ran']}")
        return
    with steps.step(backend.name, f"{subject.name}: {stage}", subject.case) as step:
        if times is None:
            step.set(FAILED, str(error), "Report it with this examination.")
        else:
            trial.milliseconds = statistics.median(times)
            how = "launches of a captured graph" if result["captured"] else "runs, which could not be captured"
            step.set(
                PASSED,
                f"{trial.milliseconds:.3f} ms, the median of {len(times)} {how}",
                milliseconds=trial.milliseconds,
                fastest=min(times),
                slowest=max(times),
                captured=result["captured"],
            )
    trial.states[stage] = steps.made[-1].state
