"""A short search on the device: which of a few tactics is the fastest for a layer and a batch, remembered on disk.

The first call of a shape pays for it once (a second or two, mostly for compiling); later processes read the result.
During the capture of a CUDA graph nothing is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

import torch

from convkit.cuda import cache_folder
from convkit.errors import ConvkitError
from convkit_plugins.dcnv2.cuda._tactics import Problem, Tactic

__all__ = ["best_tactic"]

REPEATS = 7
"""Timed calls of each tactic; the median counts."""
AGREEMENT = 2e-3
"""The relative L2 distance that two tactics may have: they sum in another order, and round once to 16 bits."""

_known: dict[tuple[str, str], Tactic] = {}
_lock = threading.Lock()


def best_tactic(
    problem: Problem,
    key: str,
    tactics: Sequence[Tactic],
    prepare: Callable[[Tactic], Callable[[], torch.Tensor]],
    compile_all: Callable[[], None],
) -> Tactic:
    """Return the fastest tactic for a problem on the current device.

    Args:
        problem: what the tactics are for.
        key: everything else that the choice depends on, the text of the kernel among it.
        tactics: what to try, the most promising first.
        prepare: returns what computes the result with a tactic.
        compile_all: compiles what ``prepare`` will need for all of them; called before a search.

    Raises:
        ConvkitError: no tactic can be compiled and launched.
    """
    known = torch.cuda.get_device_name(), f"{key} {astuple(problem)}"
    if known not in _known:
        if len(tactics) == 1 or torch.cuda.is_current_stream_capturing():
            return tactics[0]
        with _lock:
            if known not in _known:
                file = _file(*known)
                tactic = _remembered(file, tactics)
                if tactic is None:
                    compile_all()
                    tactic = _search(file, tactics, prepare)
                _known[known] = tactic
    return _known[known]


def _search(file: Path, tactics: Sequence[Tactic], prepare: Callable[[Tactic], Callable[[], torch.Tensor]]) -> Tactic:
    """Time each tactic and remember the fastest. One that cannot run, or computes something else, is left out."""
    times: dict[Tactic, float] = {}
    expected: torch.Tensor | None = None
    failure: ConvkitError | None = None
    for tactic in tactics:
        try:
            call = prepare(tactic)
            result = call().float().nan_to_num()
        except ConvkitError as error:
            failure = error
            continue
        if expected is None:
            expected = result
        if (result - expected).norm() <= AGREEMENT * expected.norm():
            times[tactic] = _milliseconds(call)
    if not times:
        raise failure or ConvkitError("There is no tactic to choose from.")
    best = min(times, key=times.__getitem__)
    _write(file, {"tactic": best._asdict(), "microseconds": {str(tuple(t)): 1000 * ms for t, ms in times.items()}})
    return best


def _milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call on the GPU."""
    times: list[float] = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _file(device: str, key: str) -> Path:
    return cache_folder() / "tactics" / f"{hashlib.sha256(f'{device} {key}'.encode()).hexdigest()}.json"


def _remembered(file: Path, tactics: Sequence[Tactic]) -> Tactic | None:
    """Return what an earlier search found, if it is still among the tactics."""
    try:
        tactic = Tactic(**json.loads(file.read_text(encoding="utf-8"))["tactic"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tactic if tactic in tactics else None


def _write(file: Path, content: object) -> None:
    """Write a JSON file in one step; where the folder cannot be written, the next process searches again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        Path(name).replace(file)
    except OSError:
        return
