"""Tasks that other processes compute while this one does something else, such as patching and exporting."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from convkit.proof._computes import run_parallel

__all__ = ["Beside", "Task"]

PATIENCE = 30.0
"""Seconds without any processor time after which a process hangs."""

Outputs = Mapping[str, np.ndarray]


class Task(Protocol):
    """Something to compute, here or in a process that was forked from this one."""

    def run(self) -> Outputs:
        """Return the outputs."""
        ...

    def learn(self, outputs: Outputs) -> None:
        """Keep outputs that were computed."""
        ...

    @property
    def known(self) -> bool:
        """Whether somebody computed them meanwhile."""
        ...


class Beside:
    """Computes tasks from now on in forked processes, which have PyTorch's threads between them.

    There is one for each core, or for three of four where there are that many: meanwhile this process has the rest of
    the threads, and one at least.

    They share the memory of this process as it was, weights included: what is patched here meanwhile is not seen there.
    What could not be computed there (it raised an error, the process was killed or hangs) is computed by `finish`,
    here, and only then do errors show. Where nothing can be forked (without Linux, with one core, once CUDA is in use)
    that is all of it.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        import torch

        self.tasks = tasks
        self._waiting = deque(range(len(tasks)))
        self._known: list[int] = []
        self._failed: list[int] = []
        self._threads = threads = torch.get_num_threads()
        forks = sys.platform == "linux" and threads > 1 and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        own = max(1, threads // 4)
        others = threads - own if threads >= 4 else threads
        count = min(others, len(tasks)) if forks else 0
        self._processes = [_Process(self, others // count) for _ in range(count)]
        if self._processes:
            torch.set_num_threads(own)  # more would wait for each other: every core has work

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the processes."""
        import torch

        self._waiting.clear()
        for process in self._processes:
            process.kill()
        torch.set_num_threads(self._threads)

    @property
    def works(self) -> bool:
        """Whether processes compute."""
        return bool(self._processes)

    def ease(self) -> None:
        """Give this process all of PyTorch's threads again if the others are done."""
        import torch

        if not any(process.alive for process in self._processes):
            torch.set_num_threads(self._threads)

    def take(self) -> int | None:
        """Return the number of a task that nobody has begun."""
        while True:
            try:
                number = self._waiting.popleft()
            except IndexError:
                return None
            if not self.tasks[number].known:
                return number
            self._known.append(number)

    def learn(self, number: int, outputs: Outputs | None) -> None:
        """Keep what a task gave, the first time; None leaves it to this process."""
        if outputs is None:
            self._failed.append(number)
        else:
            if not self.tasks[number].known:
                self.tasks[number].learn(outputs)
            self._known.append(number)

    def finish(self, done: Callable[[int], object] = int) -> None:
        """Wait for the processes, and compute what they left; ``done`` gets how many tasks are known."""
        import torch

        for process in self._processes:
            while process.works():
                done(len(self._known))
        torch.set_num_threads(self._threads)
        left = list(self._failed)
        while (number := self.take()) is not None:
            left.append(number)
        run_parallel([partial(self._here, number) for number in left], lambda count: done(len(self._known)))

    def _here(self, number: int) -> None:
        self.learn(number, self.tasks[number].run())


class _Process:
    """A process, and the thread here that hands it one task after the other."""

    def __init__(self, owner: Beside, threads: int) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._pipe, owner.tasks, threads), daemon=True)
        with warnings.catch_warnings():  # of other threads: a process that waits for a lock of theirs is given up
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        there.close()
        self._used, self._since = 0, time.monotonic()
        self._thread = Thread(target=self._drive, args=(owner,), name="convkit-beside", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it has tasks."""
        return self._thread.is_alive()

    def works(self) -> bool:
        """Wait a moment, and return whether it still computes; one that hangs is ended."""
        self._thread.join(0.1)
        used, now = _processor_ticks(self._process.pid), time.monotonic()
        if used != self._used:
            self._used, self._since = used, now
        elif now > self._since + PATIENCE:
            self.kill()
        return self._thread.is_alive()

    def kill(self) -> None:
        """End the process; the task that it has is left to this one."""
        self._process.kill()
        self._thread.join()
        self._process.join()

    def _drive(self, owner: Beside) -> None:
        with self._pipe as pipe:
            while (number := owner.take()) is not None:
                try:
                    pipe.send(number)
                    outputs = pipe.recv()
                except (EOFError, OSError):
                    owner.learn(number, None)
                    return
                owner.learn(number, outputs)


def _serve(pipe: Connection[Any, Any], other: Connection[Any, Any], tasks: Sequence[Task], threads: int) -> None:
    """Compute the tasks that are asked for, until nobody asks; an error gives None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that forked this one ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    other.close()

    def serve() -> None:
        import torch

        torch.set_num_threads(threads)
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, outputs = pipe.recv(), None
                with contextlib.suppress(Exception):
                    outputs = dict(tasks[number].run())
                pipe.send(outputs)

    # The forked thread would wait for threads of OpenMP that were not forked with it; a new one has its own.
    thread = Thread(target=serve, daemon=True)
    thread.start()
    thread.join()


def _processor_ticks(process: int | None) -> int:
    """Return the processor time that a process used, in ticks of the system."""
    try:
        fields = Path(f"/proc/{process or os.getpid()}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
