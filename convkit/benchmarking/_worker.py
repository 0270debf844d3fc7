"""A process of its own for each engine: its threads and its memory are not those of another one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from convkit.benchmarking._candidates import Candidate
from convkit.errors import ConvkitError, EnvironmentProblem

if TYPE_CHECKING:
    from convkit.benchmarking._result import Memory, Run

__all__ = ["Job", "Worker", "available_cores"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PATIENCE = 5.0


@dataclass(frozen=True)
class Job:
    """What a worker loads, the cores that it may use (none: as it comes), and the plugins that it leaves out."""

    candidate: Candidate
    unproved: bool
    cores: tuple[int, ...]
    blocked: tuple[str, ...]


class Worker:
    """An engine in a process of its own, which waits while others run. Use it in a ``with`` block.

    Raises:
        EnvironmentProblem: the process ended, or what it should do failed.
        ConvkitError: what the engine raises.
    """

    def __init__(self, job: Job, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, job), daemon=True)
        with _variables(dict.fromkeys(THREAD_VARIABLES, str(threads))):  # libraries read them when they are loaded
            self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until the engine is loaded."""
        self._answer()

    def prepare(self, scope: str, batch: int, warm_up: int) -> Run:
        """See `Subject.prepare`."""
        run: Run = self._ask("prepare", scope, batch, warm_up)
        return run

    def once(self) -> float:
        """See `Subject.once`."""
        seconds: float = self._ask("once")
        return seconds

    def finish(self) -> tuple[Memory, float | None]:
        """See `Subject.finish`."""
        found: tuple[Memory, float | None] = self._ask("finish")
        return found

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            self._connection.send((name, arguments))
        except OSError as error:
            raise self._ended() from error
        return self._answer()

    def _answer(self) -> Any:
        try:
            good, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if not good:
            raise value
        return value

    def _ended(self) -> EnvironmentProblem:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return EnvironmentProblem(
            f"the process of the engine ended with {how}", hint="It may have been out of memory: give a smaller batch."
        )


def serve(connection: Connection, job: Job) -> None:
    """Load the engine, then do what is asked for until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    os.dup2(2, 1)  # results go to stdout, and no library's talk
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    subject: Any = None
    try:
        while True:
            try:
                if subject is None:
                    subject, answer = _load(job), None
                else:
                    name, arguments = connection.recv()
                    answer = getattr(subject, name)(*arguments)
            except (EOFError, OSError):
                return
            except Exception as error:
                connection.send((False, _sendable(error)))
                if subject is None:
                    return
            else:
                connection.send((True, answer))
    except OSError:
        return


def _load(job: Job) -> Any:
    from convkit.benchmarking._subject import Subject
    from convkit.plugins import block

    block(job.blocked)
    one = job.candidate
    return Subject(one.artifact, one.backend, one.device, unproved=job.unproved)


def _sendable(error: Exception) -> ConvkitError:
    """Return an error with the text of one that may not be sent to another process."""
    if isinstance(error, ConvkitError):
        return EnvironmentProblem(error.message, hint=error.hint)
    lines = str(error).strip().splitlines()
    return EnvironmentProblem(f"{type(error).__name__}: {lines[0] if lines else 'no message'}")


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def available_cores() -> Sequence[int]:
    """Return the cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)
