"""Make an artifact without any conversion, and kill the process that makes it at every change of the disk.

Run as ``python crash.py FOLDER new|replace``: for n = 1, 2, 3 … a child process makes an artifact in
``FOLDER/n`` and is killed by SIGKILL at its n-th change of the file system, until one child lives to
the end. A line a child says which change it did not survive.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from convkit.artifact import MODEL, SAMPLES, VERDICT, Artifact, check_destination, publish, staging

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}


def make_artifact(path: Path, content: str = "graph", *, overwrite: bool = False, manifest: Any = None) -> Artifact:
    """Go through all the steps that a conversion takes with its output directory."""
    check_destination(path, overwrite=overwrite)
    with staging(path) as folder:
        (folder / MODEL).write_text(content)
        (folder / SAMPLES).parent.mkdir()
        (folder / SAMPLES).write_bytes(content.encode() * 100)
        (folder / VERDICT).write_text('{"passed": true}')
        return publish(folder, path, manifest or {"content": content}, overwrite=overwrite)


def die_at(number: int, root: Path) -> None:
    """Kill this process when it is about to change something below ``root`` for the ``number``-th time."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and str(arguments[0]).startswith(str(root)):
            seen += 1
            if seen == number:
                sys.stdout.write(f"{event} {Path(str(arguments[0])).relative_to(root)}\n")
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main(root: Path, mode: str) -> None:
    """Kill one child after the other."""
    for number in range(1, 1000):
        folder = root / str(number)
        folder.mkdir()
        if mode == "replace":
            make_artifact(folder / "out", "old")
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            die_at(number, folder)
            make_artifact(folder / "out", "new", overwrite=mode == "replace")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            if status:
                raise SystemExit(f"child {number} failed")
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
