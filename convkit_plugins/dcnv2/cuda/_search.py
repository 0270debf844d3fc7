"""Autotuning: find the fastest of a few tactics for a layer and a batch on the device, and keep the result on disk.

The first call of a shape takes a second or two longer, mostly for compiling; later processes read the result. Nothing
is measured while a CUDA graph is captured.
"""

from __future__ import annotations

import json
import statistics
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

import torch
from torch import Tensor

from convkit.cuda import cache_folder
from convkit.errors import ConvkitError, KernelError
from convkit.files import sha256, write_atomic
from convkit_plugins.dcnv2.cuda._tactics import Problem, Tactic

__all__ = ["best_tactic"]

_REPEATS = 7
"""Timed calls per tactic; the median counts."""
_TOLERANCES = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""The largest relative L2 distance of a tactic's result from the reference. Both round samples and result to the type
at most: each is within half of this of the exact result."""

_known: dict[tuple[str, str], Tactic] = {}
_lock = threading.Lock()


def best_tactic(
    problem: Problem,
    key: str,
    tactics: Sequence[Tactic],
    prepare: Callable[[Tactic], Callable[[], Tensor]],
    *,
    reference: Callable[[], Tensor | None],
    compile_all: Callable[[], None],
) -> Tactic:
    """Return the fastest tactic for a problem on the current device, of those that compute the right result.

    Args:
        problem: what the tactics are for.
        key: everything else that the choice depends on, for example a hash of the kernel's source.
        tactics: what to try, the most promising first.
        prepare: returns what computes the result with a tactic.
        reference: returns the result by another kernel, or None where these inputs allow no comparison. Then, or if
            that result contains NaN, the first tactic is returned, and the next call searches again.
        compile_all: compiles what ``prepare`` will need for all of them; called before a search.

    Raises:
        ConvkitError: no tactic can be compiled and launched, or none computes what the reference does.
    """
    known = torch.cuda.get_device_name(), f"{key} {astuple(problem)}"
    if known not in _known:
        if len(tactics) == 1 or torch.cuda.is_current_stream_capturing():
            return tactics[0]
        with _lock:
            if known not in _known:
                file = _file(*known)
                tactic = _read(file, tactics)
                if tactic is None:
                    expected = reference()
                    if expected is None or expected.isnan().any():
                        return tactics[0]
                    compile_all()
                    tactic = _search(file, tactics, prepare, expected)
                _known[known] = tactic
    return _known[known]


def _search(
    file: Path, tactics: Sequence[Tactic], prepare: Callable[[Tactic], Callable[[], Tensor]], expected: Tensor
) -> Tactic:
    """Time the tactics whose results are right, write the times to a file, and return the fastest."""
    times: dict[Tactic, float] = {}
    failure: ConvkitError = KernelError(
        f"The Hopper kernel computes a wrong result with each of {len(tactics)} tactics.",
        hint="This is a fault of the kernel, the compiler or the GPU: please report it with the output of "
        "`convkit doctor`, and check the GPU.",
    )
    for tactic in tactics:
        try:
            call = prepare(tactic)
            result = call()
        except ConvkitError as error:
            failure = error
            continue
        if _agree(result, expected):
            times[tactic] = _milliseconds(call)
    if not times:
        raise failure
    best = min(times, key=times.__getitem__)
    measured = [{**tactic._asdict(), "microseconds": 1000 * time} for tactic, time in times.items()]
    with suppress(OSError):  # where the folder cannot be written, the next process searches again
        write_atomic(file, json.dumps({"tactic": best._asdict(), "measured": measured}))
    return best


def _agree(result: Tensor, expected: Tensor) -> bool:
    """Return whether two results are equal up to rounding; an overflow counts as the largest number of the type."""
    limit = torch.finfo(expected.dtype).max
    found, wanted = (
        torch.nan_to_num(tensor, nan=torch.nan, posinf=limit, neginf=-limit).float() for tensor in (result, expected)
    )
    norm = torch.linalg.vector_norm
    distance, size = norm(found - wanted, dtype=torch.float64), norm(wanted, dtype=torch.float64)
    return bool(distance <= _TOLERANCES[expected.dtype] * size)


def _milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call on the GPU."""
    times: list[float] = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _file(device: str, key: str) -> Path:
    return cache_folder() / "tactics" / f"{sha256(f'{device} {key}')}.json"


def _read(file: Path, tactics: Sequence[Tactic]) -> Tactic | None:
    """Return the result of an earlier search if it is still among the tactics."""
    try:
        tactic = Tactic(**json.loads(file.read_text(encoding="utf-8"))["tactic"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return tactic if tactic in tactics else None
