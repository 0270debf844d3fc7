"""An engine in use: its outputs, the memory that changes of shape cost, and its latency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from convkit.backends import Engine, Session
from convkit.backends.tensorrt._backend import TensorRT
from convkit.backends.tensorrt._flavour import find_flavour
from convkit.backends.tensorrt._session import TensorRTSession
from convkit.errors import ConvkitError

__all__ = ["examine_engine"]

QUARTERS = 4
"""Parts of the changes of shape after which the free memory is read."""
WARM_UP = 20
"""Runs before the first that is timed."""


def examine_engine(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run an engine on this machine's GPU and return what was seen; call it in a process of its own.

    ``job`` has ``flavour``, ``plan`` (a file), ``targets``, ``details`` (those of the `Engine`), ``inputs``: for each
    case a file with the arrays by name, ``outputs``: for each case the file to write, ``changes``: how often to
    change the shape, and ``runs``: how often to run the first case for its latency.

    The result has ``machine``; with changes ``free_bytes``, the free memory of the GPU before them, after each
    quarter and at the end; with runs ``milliseconds``, one time a run as the GPU measured it, and ``captured``,
    whether the runs were launches of a captured CUDA graph; ``errors`` has what went wrong in ``changes`` or ``runs``.

    Raises:
        ConvkitError: the engine does not load, or does not run the cases; see `TensorRT.open` and `TensorRTSession`.
    """
    backend = TensorRT(find_flavour(job["flavour"]))
    engine = Engine(backend.name, Path(job["plan"]), tuple(job["targets"]), job["details"])
    cases = [_read(Path(file)) for file in job["inputs"]]
    result: dict[str, Any] = {"machine": dict(backend.machine())}
    session = backend.open(engine)
    assert isinstance(session, TensorRTSession)
    try:
        for case, file in zip(cases, job["outputs"], strict=True):
            np.savez(file, **session.run(case))  # type: ignore[arg-type]
        errors: dict[str, str] = {}
        if job["changes"]:
            with _noted(errors, "changes"):
                result["free_bytes"] = _memory(session, cases, job["changes"])
        if job["runs"]:
            with _noted(errors, "runs"):
                result["milliseconds"], result["captured"] = _latency(session, cases[0], job["runs"])
        result["errors"] = errors
    finally:
        session.close()
    return result


@contextmanager
def _noted(errors: dict[str, str], what: str) -> Iterator[None]:
    try:
        yield
    except ConvkitError as error:
        errors[what] = f"{error.message} {error.hint}".strip()


def _read(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _memory(session: TensorRTSession, cases: Sequence[Mapping[str, np.ndarray]], changes: int) -> list[int]:
    """Return the free memory before, during and after changes between the shapes of the cases."""
    gpu = session.gpu
    with gpu.active():
        stream = gpu.new_stream()
        device, buffers = _filled(session, cases, int(stream.ptr))
        for case in buffers:  # what a shape costs once is no growth
            device.fetch(device.run(case))
        free = [gpu.free_memory(int(stream.ptr))]
        for change in range(changes):
            device.run(buffers[change % len(buffers)])
            if (change + 1) * QUARTERS % changes < QUARTERS:
                free.append(gpu.free_memory(int(stream.ptr)))
    return free


def _latency(session: TensorRTSession, case: Mapping[str, np.ndarray], runs: int) -> tuple[list[float], bool]:
    gpu = session.gpu
    with gpu.active():
        stream = gpu.new_stream()
        device, (buffers,) = _filled(session, [case], int(stream.ptr))

        def run() -> None:
            device.run(buffers)

        run()
        launch = device.capture(run)
        body = launch or run
        for _ in range(WARM_UP):
            body()
        return gpu.times(body, runs, int(stream.ptr)), launch is not None


def _filled(session: Session, cases: Sequence[Mapping[str, np.ndarray]], stream: int) -> tuple[Any, list[Any]]:
    """Return the device side on a stream, and the inputs of each case in its memory."""
    device = session.on_device(stream)
    assert device is not None
    filled = []
    for case in cases:
        buffers = {name: device.buffer(name, value.shape) for name, value in case.items()}
        for name, value in case.items():
            device.fill(buffers[name], value)
        filled.append(buffers)
    return device, filled
