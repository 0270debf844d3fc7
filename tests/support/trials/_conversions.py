"""Whole conversions that a signal ends at a change of the disk or at any moment."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from support.faults import AFTER, BEFORE, struck
from support.trials._disk import SIGNALS
from support.trials._small import convert_small, small_weights

from convkit import Artifact
from convkit.cli import _ended_by_signals
from convkit.errors import ArtifactError
from convkit.files import sha256

__all__ = ["conversion_cases"]

Strike = Callable[[Callable[[], object]], object]


def conversion_cases(
    artifact: Path, folder: Path, random: Random, count: int
) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield cases of which each converts, is ended by a signal, and leaves the old artifact, the new one or none."""
    weights = small_weights(folder, 1)
    began = time.perf_counter()
    _, changes = struck(functools.partial(_convert, weights, folder / "whole", False), 10**6, BEFORE, signal.SIGKILL)
    seconds = time.perf_counter() - began
    for number in range(count):
        mode, value = random.choice(("new", "replace")), random.choice(SIGNALS)
        if number % 2:
            at, kind = random.randrange(1, changes + 1), random.choice((BEFORE, AFTER))
            strike: Strike = functools.partial(struck, number=at, kind=kind, value=int(value))
            what = f"change {at} of {changes}"
        else:
            delay = 1.1 * seconds * random.random()
            strike, what = functools.partial(_at_moment, delay, value), f"{delay:.2f} s of {seconds:.2f}"
        work = functools.partial(_case, artifact, weights, folder / str(number), mode, value, strike)
        yield f"{mode}, {value.name} at {what}", work, 0


def _convert(weights: Path, path: Path, overwrite: bool) -> None:
    _ended_by_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    convert_small(weights, path, overwrite=overwrite)


def _at_moment(delay: float, value: int, work: Callable[[], object]) -> None:
    """Run ``work`` in a child that gets a signal after ``delay`` seconds."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}\n")
        finally:
            os._exit(0)
    time.sleep(delay)
    os.kill(child, value)  # a child that has ended is still there until it is waited for
    os.waitpid(child, 0)


def _case(artifact: Path, weights: Path, folder: Path, mode: str, value: int, strike: Strike) -> None:
    folder.mkdir()
    path, temporary = folder / "out", folder / "tmp"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    if mode == "replace":
        shutil.copytree(artifact, path)
    strike(functools.partial(_convert, weights, path, mode == "replace"))
    if value != signal.SIGKILL:
        left = [file for file in temporary.rglob("*") if not file.is_dir()]  # Python may leave one that is empty
        assert not left, f"left in TMPDIR: {left}"
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            try:
                Artifact.open(entry)
            except ArtifactError:
                continue
            raise AssertionError(f"{entry} was accepted")
    if mode == "replace" or path.exists():
        opened = Artifact.open(path)  # that puts back what a kill between two renames took away
        opened.verify()
        known = {sha256(weights), Artifact.open(artifact).manifest["weights"]["sha256"]}
        assert opened.manifest["weights"]["sha256"] in known, "another artifact"
    convert_small(weights, path, overwrite=True)
    names = {entry.name for entry in folder.iterdir()}
    assert names == {"out", "tmp"}, f"left behind: {names}"
    shutil.rmtree(folder)
