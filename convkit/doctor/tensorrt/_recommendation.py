"""Which way to choose on this GPU: the fastest that computes rightly; stored for later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convkit.cuda import cache_folder
from convkit.doctor.tensorrt._steps import FAILED, NOT_OFFERED, PASSED, SKIPPED, Steps
from convkit.doctor.tensorrt._trial import STAGES
from convkit.files import sha256, write_atomic

if TYPE_CHECKING:
    from convkit.backends.tensorrt import Gpu
    from convkit.doctor.tensorrt._probes import Prepared
    from convkit.doctor.tensorrt._ways import Trials

__all__ = ["Recommendation", "recommend", "stored_recommendations"]


@dataclass(frozen=True)
class Recommendation:
    """The best way of an option by element type, with the latency in milliseconds of every way that is right.

    It holds for a flavour, its version, a GPU and a CUDA driver.
    """

    option: str
    flavour: str
    version: str
    gpu: str
    driver: str
    best: Mapping[str, str]
    milliseconds: Mapping[str, Mapping[str, float]]

    @property
    def text(self) -> str:
        """The flags to give, with their reasons."""
        flags = dict.fromkeys(self.best.values())
        parts = []
        for way in flags:
            dtypes = [dtype for dtype, best in self.best.items() if best == way]
            times = "; ".join(
                f"{dtype} " + ", ".join(f"{name} {value:.3f} ms" for name, value in self.milliseconds[dtype].items())
                for dtype in dtypes
            )
            only = "" if len(flags) == 1 else f" in {' and '.join(dtypes)}"
            parts.append(f"--set {self.option}={way}{only} ({times})")
        return "; ".join(parts)


def recommend(
    steps: Steps, option: str, flavour: str, version: str, gpu: Gpu | None, no_gpu: str, probes: Sequence[Prepared],
    trials: Trials,
) -> Recommendation | None:  # fmt: skip
    """Make the step of the recommendation, and store it; None where no way can be recommended."""
    name = f"recommended {option}"
    if gpu is None or no_gpu:
        steps.note(flavour, name, SKIPPED, f"no engine ran: {no_gpu}")
        return None
    times: dict[str, dict[str, float]] = {}
    for (way, probe, dtype), trial in trials.items():
        if trial.milliseconds is not None and _is_right(way, dtype, trials):
            times.setdefault(dtype, {})[way] = times.get(dtype, {}).get(way, 0.0) + trial.milliseconds
            del probe
    if not times:
        state = FAILED if any(item.probe.timed for item in probes) else SKIPPED
        steps.note(flavour, name, state, f"no way of {option} computes rightly, loads again and was timed")
        return None
    ranked = {dtype: dict(sorted(found.items(), key=lambda item: item[1])) for dtype, found in times.items()}
    best = {dtype: next(iter(found)) for dtype, found in ranked.items()}
    made = Recommendation(option, flavour, version, gpu.name, gpu.driver, best, ranked)
    with steps.step(flavour, name) as step:
        file = _store(made)
        warnings = _warnings(best, trials)
        kept = "" if file else "; it could not be stored"
        step.set(PASSED, made.text + "".join(f"; {warning}" for warning in warnings) + kept, **asdict(made))
    return made


def stored_recommendations() -> list[Recommendation]:
    """Return what was stored on this machine, whatever its GPU and versions are now; unreadable files are left out."""
    found = []
    for file in sorted(_folder().glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            found.append(Recommendation(**json.loads(file.read_text(encoding="utf-8"))))
    return found


def _is_right(way: str, dtype: str, trials: Trials) -> bool:
    """Return whether a way gave right engines of all probes that it is offered for, in an element type."""
    mine = [trial for (other, _, kind), trial in trials.items() if (other, kind) == (way, dtype)]
    return all(trial.right or trial.states.get("built") == NOT_OFFERED for trial in mine)


def _warnings(best: Mapping[str, str], trials: Trials) -> list[str]:
    warnings: dict[str, None] = {}
    for (way, probe, dtype), trial in trials.items():
        if way != best.get(dtype) and not (trial.reason and way in best.values()):
            continue
        if trial.reason:
            warnings[f"{way} is not offered for {probe}"] = None
        if trial.states.get(STAGES[3]) == FAILED:
            warnings[f"{way} takes more memory with every change of shape: build it for one shape"] = None
    return list(warnings)


def _store(made: Recommendation) -> Path | None:
    key = sha256("\n".join((made.option, made.flavour, made.version, made.gpu, made.driver)))[:16]
    file = _folder() / f"{key}.json"
    try:
        write_atomic(file, json.dumps(asdict(made), indent=2) + "\n")
    except OSError:
        return None
    return file


def _folder() -> Path:
    return cache_folder() / "recommendations"
