"""Kills and failing calls at every change of the disk; the process needs the library of `support.faults` preloaded."""

from __future__ import annotations

import errno
import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from support.crash import make_artifact
from support.faults import AFTER, BEFORE, EVER, ONCE, struck

from convkit import Artifact
from convkit.errors import ArtifactError
from convkit.files import _exchange

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EMFILE)
CHANGES = 40
"""About as many changes of the disk as an artifact takes."""


def disk_cases(
    folder: Path, random: Random, count: int, *, errnos: bool
) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield cases of which each makes an artifact, is hit at one change of the disk, and is made again."""
    for number in range(count):
        mode = random.choice(("new", "replace", "replace", "link", "plain"))
        kind = random.choice((ONCE, EVER) if errnos else (BEFORE, AFTER))
        value = int(random.choice(ERRNOS if errnos else SIGNALS))
        at = random.randrange(1, CHANGES)
        work = functools.partial(_case, folder / str(number), mode, at, kind, value)
        yield f"{mode}, change {at}, kind {kind}, value {value}", work, 0


def _case(folder: Path, mode: str, at: int, kind: int, value: int) -> None:
    folder.mkdir()
    path = folder / "out"
    if mode == "plain":
        _exchange._system_call = lambda: None
    if mode == "link":
        make_artifact(folder / "kept", "kept")
        path.symlink_to("kept")
    elif mode != "new":
        make_artifact(path, "old")
    struck(functools.partial(make_artifact, path, "new", overwrite=mode != "new"), at, kind, value)
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            try:
                Artifact.open(entry)
            except ArtifactError:
                continue
            raise AssertionError(f"{entry} was accepted")
    if mode != "new" or path.exists():
        opened = Artifact.open(path)  # that puts back what a kill between two renames took away
        opened.verify()
        assert opened.model.read_text() in ("old", "new", "kept"), "a mixture"
    make_artifact(path, "after", overwrite=True)
    left = sorted(entry.name for entry in folder.iterdir())
    assert left == (["kept", "out"] if mode == "link" else ["out"]), f"left behind: {left}"
    shutil.rmtree(folder)
