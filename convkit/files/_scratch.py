"""Folders for work that is not finished, whose leftovers the next run finds by a lock that the system frees.

A scratch folder ``.NAME.PID.RANDOM.partial`` is beside the output NAME and contains a file ``lock``, which its process
keeps locked. The system frees the lock when the process ends, however it ends; process ids say nothing in containers.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["REPLACED", "clear_leftovers", "keep_locked", "put_back", "scratch_beside", "taken_over"]

LOCK = "lock"
REPLACED = "replaced"
"""Where in a scratch folder what was at the output waits, on systems that cannot exchange two names in one step."""
_ABSENT = -1


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, private to this user; it is removed at the end with all that is in it.

    Raises:
        OSError: it cannot be made.
    """
    folder, handle = _locked_folder(path)
    try:
        yield folder
    finally:
        _remove(folder)
        _close(handle)


def clear_leftovers(path: Path) -> None:
    """Remove the scratch folders for ``path`` of processes that ended, and put back what one was about to replace.

    Folders of running processes stay, be it in this container or another one.

    Raises:
        OSError: what was to be replaced cannot be put back.
    """
    put_back(path)
    for folder in _scratch_folders(path):
        with taken_over(folder / LOCK) as mine:
            if mine:
                _remove(folder)


def put_back(path: Path) -> None:
    """Put back what a killed process was about to replace at ``path``, if nothing is there.

    Raises:
        OSError: it cannot be renamed.
    """
    if os.path.lexists(path):
        return
    for folder in _scratch_folders(path):
        if os.path.lexists(folder / REPLACED):
            with taken_over(folder / LOCK) as mine:
                if mine and not os.path.lexists(path):
                    (folder / REPLACED).rename(path)


def keep_locked(handle: int, path: Path) -> bool:
    """Lock an open file until it is closed; return False if another process took it for a leftover before.

    On a file system without locks nothing is locked, and nothing there is ever taken for a leftover.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return _is(handle, path)


@contextlib.contextmanager
def taken_over(path: Path) -> Iterator[bool]:
    """Yield whether the process that locked a file has ended; no other process takes it meanwhile.

    It is False, too, where that cannot be known: of another user, on a file system without locks.
    """
    handle = _ABSENT
    try:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        yield handle != _ABSENT and _locks(handle) and _is(handle, path)
    finally:
        _close(handle)


def _locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is(handle: int, path: Path) -> bool:
    """Return whether a path is still that of an open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False


def _locked_folder(path: Path) -> tuple[Path, int]:
    """Return a new folder and the descriptor of its locked file."""
    while True:
        folder = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial"
        with contextlib.ExitStack() as undo:
            undo.callback(_remove, folder)
            handle = _lock_in_new(folder)
            undo.pop_all()
        if handle != _ABSENT:
            return folder, handle


def _lock_in_new(folder: Path) -> int:
    """Make a folder and return the descriptor of a locked file in it; `_ABSENT` where another process was there."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as undo:  # it was taken for a leftover
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            undo.callback(_close, handle)
            if keep_locked(handle, folder / LOCK):
                undo.pop_all()
                return handle
    return _ABSENT


def _remove(folder: Path) -> None:
    """Remove a folder as far as it can be removed; a signal or a failure in between is no reason to leave the rest."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _close(handle: int) -> None:
    if handle != _ABSENT:
        os.close(handle)


def _scratch_folders(path: Path) -> list[Path]:
    """Return the scratch folders beside ``path`` that are for it."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"\d+\.[^.]+\.partial")
    found = path.parent.glob(f".{glob.escape(path.name)}.*.partial")
    return sorted(folder for folder in found if pattern.fullmatch(folder.name) and not folder.is_symlink())
