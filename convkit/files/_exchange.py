"""A folder or file gets its name in one step, in place of what has that name."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from convkit.files._scratch import REPLACED, scratch_beside

__all__ = ["move_into_place"]

_HERE = -100
"""AT_FDCWD of Linux: a relative path begins at the working directory."""
_NOREPLACE, _EXCHANGE = 1, 2
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""What renameat2 answers where the kernel or the file system lacks the flag."""
_TRIES = 100


def move_into_place(source: Path, target: Path, *, replace: bool) -> None:
    """Rename ``source`` to ``target``; with ``replace`` in place of what is there, which then is at ``source``.

    Both are on one file system. The exchange is one step (``renameat2``): at every moment ``target`` is the old or the
    new one. Where the system lacks it, the old one is renamed aside first, and comes back if anything ends the process
    in between: at once, or, after a kill, by `put_back` and `clear_leftovers`.

    Raises:
        FileExistsError: something is there, and ``replace`` is False.
        OSError: the system refuses; ``target`` is as it was.
    """
    for _ in range(_TRIES):  # between two calls, another process may put something there or take it away
        try:
            return _rename_new(source, target)
        except FileExistsError:
            if not replace:
                raise
        with contextlib.suppress(FileNotFoundError):
            return _exchange(source, target)
    raise FileExistsError(errno.EEXIST, "others write there all the time", str(target))


def _rename_new(source: Path, target: Path) -> None:
    if not _renameat2(source, target, _NOREPLACE):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        source.rename(target)


def _exchange(source: Path, target: Path) -> None:
    if _renameat2(source, target, _EXCHANGE):
        return
    with scratch_beside(target) as aside:
        old = aside / REPLACED
        try:
            target.rename(old)
            source.rename(target)
        finally:
            if os.path.lexists(old):
                old.rename(source if os.path.lexists(target) else target)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Rename with flags; return False where the system lacks them."""
    call = _system_call()
    if call is None:
        return False
    if call(_HERE, os.fsencode(source), _HERE, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _system_call() -> Callable[..., Any] | None:
    """Return ``renameat2`` of the C library, None where there is none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call.restype = ctypes.c_int
    return call
