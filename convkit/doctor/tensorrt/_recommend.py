"""Which way to choose on this GPU: the fastest that computes rightly and does so again after it was loaded anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from convkit.doctor._recommendations import Recommendation, store
from convkit.doctor.tensorrt._steps import FAILED, NOT_OFFERED, PASSED, SKIPPED, Steps
from convkit.doctor.tensorrt._trial import STAGES

if TYPE_CHECKING:
    from convkit.backends.tensorrt import Gpu
    from convkit.doctor.tensorrt._probes import ReadyProbe
    from convkit.doctor.tensorrt._ways import Trials

__all__ = ["recommend"]


def recommend(
    steps: Steps, option: str, flavour: str, version: str, gpu: Gpu | None, no_gpu: str, probes: Sequence[ReadyProbe],
    trials: Trials,
) -> Recommendation | None:  # fmt: skip
    """Make the step of the recommendation, and store it; None where no way can be recommended.

    A way is ranked by the sum of its latencies on the timed probes. It must be right on every probe that it is offered
    for, and offered for all of those that are timed.
    """
    name = f"recommended {option}"
    timed = [prepared.probe.name for prepared in probes if prepared.probe.timed]
    if gpu is None or no_gpu:
        steps.note(flavour, name, SKIPPED, f"no engine ran: {no_gpu}")
        return None
    if not timed:
        steps.note(flavour, name, SKIPPED, "no probe is there for its latency")
        return None
    times: dict[str, dict[str, float]] = {}
    for way, dtype in dict.fromkeys((way, dtype) for way, _, dtype in trials):
        found = [trials[way, probe, dtype].milliseconds for probe in timed if (way, probe, dtype) in trials]
        measured = [value for value in found if value is not None]
        if len(measured) == len(timed) and _is_right(way, dtype, trials):
            times.setdefault(dtype, {})[way] = sum(measured)
    if not times:
        steps.note(flavour, name, FAILED, f"no way of {option} computes rightly, loads again and was timed")
        return None
    ranked = {dtype: dict(sorted(found.items(), key=lambda item: item[1])) for dtype, found in times.items()}
    best = {dtype: next(iter(found)) for dtype, found in ranked.items()}
    made = Recommendation(option, flavour, version, gpu.name, gpu.driver, best, ranked)
    with steps.step(flavour, name) as step:
        remarks = _remarks(best, trials)
        try:
            store(made)
        except OSError as error:
            remarks.append(f"it could not be stored: {error.strerror}")
        step.set(PASSED, "; ".join((made.text, *remarks)), **asdict(made))
    return made


def _is_right(way: str, dtype: str, trials: Trials) -> bool:
    """Return whether a way gave right engines of all probes that it is offered for, in an element type."""
    mine = [trial for (other, _, kind), trial in trials.items() if (other, kind) == (way, dtype)]
    return all(trial.right or trial.states["built"] == NOT_OFFERED for trial in mine)


def _remarks(best: Mapping[str, str], trials: Trials) -> list[str]:
    """Return what a user of the best ways has to know."""
    remarks: dict[str, None] = {}
    for (way, probe, _), trial in trials.items():
        if way in best.values() and trial.reason:
            remarks[f"{way} is not offered for {probe}"] = None
        if way in best.values() and trial.states.get(STAGES[3]) == FAILED:
            remarks[f"{way} takes memory with every change of shape: build it for one shape"] = None
    return list(remarks)
