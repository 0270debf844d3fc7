"""Tasks for TensorRT, done in a child process: what its library does to a process, it does to that one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convkit import errors
from convkit.backends.tensorrt._flavour import Flavour
from convkit.backends.tensorrt._network import ParsedNetwork, read_network
from convkit.backends.tensorrt._options import BuildSettings
from convkit.errors import ConversionError, ConvkitError
from convkit.progress import Progress, silent

__all__ = ["Build", "Outcome", "ParserError", "Task", "run_tasks"]

LOG_LINES = 20
"""Lines of the child's log that an error quotes at most."""
LOG_WINDOW = 1 << 14
"""Bytes at the end of the log in which they are looked for first."""
_START = (
    "import json, pathlib, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from convkit.backends.tensorrt._worker import main; main(pathlib.Path(sys.argv[2]))"
)


@dataclass(frozen=True)
class Build:
    """What to build: compute capabilities (``sm86`` …), the range of shapes an input, and values of shape inputs.

    ``timing_cache`` is a file that the builder reads, if it is there, and writes.
    """

    targets: tuple[str, ...]
    ranges: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    values: Mapping[str, Sequence[int]] = field(default_factory=dict)
    settings: BuildSettings = field(default_factory=BuildSettings)
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Task:
    """An ONNX file to parse, and what to do with the network: read it back, build it.

    ``plugins`` are the functions that register the plugins it needs, as in `TensorRTPlugin.register`.
    """

    model: Path
    read: bool = False
    build: Build | None = None
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParserError:
    """What the parser objected to: the ONNX node (its index, -1 if it is none's fault), and NVIDIA's words."""

    message: str
    node: int = -1
    name: str = ""
    operator: str = ""
    code: str = ""

    def __str__(self) -> str:
        if self.node < 0 and not self.operator:
            return self.message
        return f"node {self.node} {self.operator} {self.name!r}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {key: getattr(self, key) for key in ("node", "name", "operator", "code", "message")}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a task.

    ``errors`` are the parser's; ``problem`` is an error that has nothing to do with the model, or the end of the
    child process. ``targets`` has a reason for each compute capability that no engine can be built for, and an
    empty string for each other; ``plan`` has the bytes of the engine if it was built for all of them.
    """

    errors: tuple[ParserError, ...] = ()
    problem: ConvkitError | None = None
    network: ParsedNetwork | None = field(default=None, repr=False)
    targets: Mapping[str, str] = field(default_factory=dict)
    plan: bytes | None = field(default=None, repr=False)
    version: str = ""
    log: tuple[str, ...] = field(default=(), repr=False)

    @property
    def accepted(self) -> bool:
        """Whether the parser took the model."""
        return not self.errors and self.problem is None


def run_tasks(flavour: Flavour, tasks: Sequence[Task], *, progress: Progress = silent) -> list[Outcome]:
    """Do tasks one after the other in a child process and return what came of each.

    A task that ends the process is reported as its problem; the others go on in a new process. However this
    function ends, the child process and everything it wrote is gone.

    Raises:
        EnvironmentProblem: the flavour is not installed or does not load.
    """
    flavour.require()
    done: list[Outcome] = []
    while len(done) < len(tasks):
        done += _run_once(flavour, tasks[len(done) :], progress)
    return done


def _run_once(flavour: Flavour, tasks: Sequence[Task], progress: Progress) -> list[Outcome]:
    """Return the outcomes of the first tasks: all, or those up to the one that ended the child process."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="convkit-tensorrt-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        job = {"flavour": flavour.name, "tasks": [_task_to_json(task) for task in tasks]}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        with _child(folder) as child:
            for event in _events(child):
                if event["event"] == "progress":
                    progress(event["step"], event["done"], event["total"])
                elif event["event"] == "result":
                    outcomes.append(_outcome(event, folder))
                elif event["event"] == "problem":
                    raise _unpack(event)
            status = child.wait()
        if len(outcomes) < len(tasks):
            outcomes.append(Outcome(problem=_crash(flavour, tasks[len(outcomes)], status, _log_tail(folder))))
    return outcomes


@contextmanager
def _child(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the child in a session of its own, so that Ctrl-C reaches this process alone; kill it at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(sys.path), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


def _events(child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        try:
            yield json.loads(line)
        except ValueError:
            return  # the end of the process cut the line


def _task_to_json(task: Task) -> dict[str, Any]:
    build = task.build
    return {
        "model": str(task.model.absolute()),
        "read": task.read,
        "plugins": list(task.plugins),
        "build": None
        if build is None
        else {
            "targets": list(build.targets),
            "ranges": {name: [list(shape) for shape in shapes] for name, shapes in build.ranges.items()},
            "values": {name: [int(value) for value in values] for name, values in build.values.items()},
            "settings": build.settings.to_json(),
            "timing_cache": None if build.timing_cache is None else str(build.timing_cache.absolute()),
        },
    }


def _outcome(event: dict[str, Any], folder: Path) -> Outcome:
    place = folder / str(event["task"])
    return Outcome(
        tuple(ParserError(**error) for error in event["errors"]),
        None if event["problem"] is None else _unpack(event["problem"]),
        read_network(place) if event["read"] else None,
        event["targets"],
        (place / "model.plan").read_bytes() if event["built"] else None,
        event["version"],
        tuple(_log_tail(folder)) if event["errors"] or not event["built"] else (),
    )


def _unpack(packed: Mapping[str, str]) -> ConvkitError:
    """Return the error that the child process raised."""
    kind = getattr(errors, packed["kind"], ConversionError)
    error = kind(packed["message"], hint=packed["hint"])
    assert isinstance(error, ConvkitError)
    return error


def _log_tail(folder: Path) -> list[str]:
    """Return the last lines of the log, which all tasks of the process share: no more is read than they need."""
    try:
        with (folder / "log.txt").open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            for window in (min(size, LOG_WINDOW), size):
                stream.seek(size - window)
                lines = stream.read().decode("utf-8", errors="replace").splitlines()
                if len(lines) > LOG_LINES or window == size:
                    return lines[-LOG_LINES:]
    except OSError:
        pass
    return []


def _crash(flavour: Flavour, task: Task, status: int, log: Sequence[str]) -> ConversionError:
    if status < 0:
        try:
            how = f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            how = f"was ended by signal {-status}"
    else:
        how = f"ended with exit code {status}"
    tail = "".join(f"\n    {line}" for line in log[-5:])
    remedy = "Report it with the model."
    if status == -signal.SIGKILL:
        remedy = "The system does that when memory runs out: build on a machine with more, or for smaller shapes."
    return ConversionError(
        f"The process in which {flavour.title} worked on {task.model} {how}.",
        hint=f"{remedy}{' Its last messages:' + tail if tail else ' It left no message.'}",
    )
