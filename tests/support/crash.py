"""Make an artifact without any conversion, and end the process that makes it at every change of the disk.

Run with the library of `support.faults` preloaded, as ``python crash.py FOLDER MODE SIGNAL|ERRNO``: for n = 1, 2, 3 … a
child process makes an artifact ``FOLDER/n/out`` and is hit before its n-th change of the disk, until one child is not
hit. A line a child: its wait status. Modes: ``new``, ``replace``, ``link`` (``out`` is a link to an artifact) and
``plain`` (replace, on a system that cannot exchange two names in one step).
"""

from __future__ import annotations

import errno
import functools
import json
import signal
import sys
from pathlib import Path
from typing import Any

from support.faults import BEFORE, ONCE, struck
from support.manifests import VERDICT_DOCUMENT, manifest_of

from convkit.artifact import MODEL, SAMPLES, VERDICT, Artifact, check_destination, publish, staging
from convkit.files import _exchange


def make_artifact(path: Path, content: str = "graph", *, overwrite: bool = False, manifest: Any = None) -> Artifact:
    """Go through all the steps that a conversion takes with its output directory."""
    check_destination(path, overwrite=overwrite)
    with staging(path) as folder:
        (folder / MODEL).write_text(content)
        (folder / SAMPLES).parent.mkdir()
        (folder / SAMPLES).write_bytes(content.encode() * 100)
        (folder / VERDICT).write_text(json.dumps(VERDICT_DOCUMENT))
        return publish(folder, path, manifest or manifest_of(content), overwrite=overwrite)


def main(root: Path, mode: str, hit: str) -> None:
    """Hit one child after the other."""
    named = getattr(signal, hit, None)
    kind, value = (BEFORE, int(named)) if named else (ONCE, getattr(errno, hit))
    if mode == "plain":
        _exchange._system_call = lambda: None
    for number in range(1, 1000):
        folder = root / str(number)
        folder.mkdir()
        path = folder / "out"
        if mode == "link":
            make_artifact(folder / "kept", "kept")
            path.symlink_to("kept")
        elif mode != "new":
            make_artifact(path, "old")
        work = functools.partial(make_artifact, path, "new", overwrite=mode != "new")
        status, reached = struck(work, number, kind, value)
        sys.stdout.write(f"{status}\n")
        if 0 <= reached < number:
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
