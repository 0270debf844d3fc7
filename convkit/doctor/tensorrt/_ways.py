"""The ways of an option on one flavour: each choice fitted to the probes, and tried."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.backends import Backend, ways_of
from convkit.doctor.tensorrt._probes import DTYPES, ReadyProbe
from convkit.doctor.tensorrt._steps import FAILED, NOT_OFFERED, PASSED, SKIPPED, Steps
from convkit.doctor.tensorrt._trial import Trial, try_engine
from convkit.errors import ConvkitError, PluginError
from convkit.graph import apply_rewrite, in_phases
from convkit.model import Target
from convkit.plugins import manager

if TYPE_CHECKING:
    import onnx

__all__ = ["Trials", "try_ways"]

Trials = dict[tuple[str, str, str], Trial]
"""Trials by way, probe and element type."""


def try_ways(
    steps: Steps, backend: Backend, option: str, probes: Sequence[ReadyProbe], *, targets: Sequence[str], no_gpu: str
) -> Trials:
    """Try every way of an option on every probe, in each element type; what was tried is among the steps.

    Without a GPU the probes of real size are left out: they are there for their latency.
    """
    trials: Trials = {}
    with steps.step(backend.name, option) as step:
        ways = ways_of(probes[0].probe)
        step.set(PASSED, f"the ways are {', '.join(ways)}", ways=list(ways))
    if steps.made[-1].state != PASSED:
        return trials
    for way in ways:
        for prepared in probes:
            for dtype in DTYPES:
                trial = _try(steps, backend, option, way, prepared, dtype, targets, no_gpu)
                trials[way, prepared.probe.name, dtype] = trial
                if trial.reason:
                    break  # what the flavour does not take is a matter of operators, not of their types
    if not any(trial.states.get("built") == PASSED for trial in trials.values()):
        steps.note(
            backend.name, option, FAILED, f"no way of {option} gives an engine", remedy="The steps above say why."
        )
    return trials


def _try(
    steps: Steps, backend: Backend, option: str, way: str, prepared: ReadyProbe, dtype: str, targets: Sequence[str],
    no_gpu: str,
) -> Trial:  # fmt: skip
    name, case = f"{option}={way}", f"{prepared.probe.name}, {dtype}"
    try:
        model = _fit(prepared.models[dtype], backend.name, {option: way})
    except PluginError as error:
        steps.note(backend.name, f"{name}: built", FAILED, error.message, case, error.hint)
        return Trial({"built": FAILED})
    except ConvkitError as error:
        steps.note(backend.name, f"{name}: built", NOT_OFFERED, error.message, case, error.hint)
        return Trial({"built": NOT_OFFERED}, reason=error.message)
    if prepared.probe.timed and no_gpu:
        steps.note(backend.name, f"{name}: built", SKIPPED, f"it is for the latency, and {no_gpu}", case)
        return Trial({"built": SKIPPED})
    with tempfile.TemporaryDirectory(prefix="convkit-doctor-", ignore_cleanup_errors=True) as folder:
        subject = prepared.subject(name, dtype, model, {option: way})
        return try_engine(steps, backend, subject, Path(folder), targets=targets, no_gpu=no_gpu)


def _fit(model: onnx.ModelProto, flavour: str, options: Mapping[str, Any]) -> onnx.ModelProto:
    """Return the graph as a build would give it to the flavour.

    Raises:
        ConvkitError: a rewrite, or what chooses it, refuses the way.
    """
    target = Target(flavour, model.opset_import[0].version, options=options)
    found = manager().gather("convkit_graph_rewrites", adapter="", target=target)
    for _, rewrite in in_phases(found):
        if rewrite.phase in ("precision", "target"):
            model, _ = apply_rewrite(model, rewrite)
    return model
