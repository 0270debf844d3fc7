"""Standard output and error that fail in an orderly way: on a full disk, or closed by the caller."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from convkit.errors import EnvironmentProblem

__all__ = ["guard_streams"]


def guard_streams() -> None:
    """Put guarded streams in place of `sys.stdout` and `sys.stderr`.

    What stdout cannot take is an `EnvironmentProblem`, but for a pipe whose reader has gone, which stays a
    `BrokenPipeError`; what stderr cannot take is lost without a word. Neither fails when Python ends.
    """
    _occupy_closed()
    for stream in (sys.stdout, sys.stderr):
        # A name may not fit the encoding of a pipe. UTF-8 keeps its own way with the bytes of file names.
        whole = (getattr(stream, "encoding", "") or "").lower().replace("-", "").startswith("utf")
        if isinstance(stream, io.TextIOWrapper) and (
            stream.errors == "strict" or (stream.errors == "surrogateescape" and not whole)
        ):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = _Guarded(sys.stdout, 1, silent=False)
    sys.stderr = _Guarded(sys.stderr, 2, silent=True)


class _Guarded:
    """A text stream; ``stream`` is None where the caller closed its descriptor."""

    def __init__(self, stream: Any, descriptor: int, *, silent: bool) -> None:
        self._stream, self._descriptor, self._silent = stream or io.StringIO(), descriptor, silent
        self._lost = "it is closed" if stream is None else ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        if self._lost:
            self._fail()
        else:
            self._do("write", text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand over to the system what was written."""
        if not self._lost:
            self._do("flush")

    def _do(self, call: str, *arguments: str) -> None:
        try:
            getattr(self._stream, call)(*arguments)
        except BrokenPipeError:
            if not self._silent:
                raise
        except (OSError, ValueError) as error:  # ValueError: of a closed file
            self._lost = getattr(error, "strerror", None) or str(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)  # for what is still in the buffer when Python ends
            os.dup2(nowhere, self._descriptor)
            os.close(nowhere)
            self._fail()

    def _fail(self) -> None:
        if not self._silent:
            raise EnvironmentProblem(
                f"Standard output cannot be written: {self._lost}.", hint="Free some space, or send it elsewhere."
            )


def _occupy_closed() -> None:
    """Open what the caller closed of descriptors 0 to 2, so that no file gets what is meant for them."""
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(handle)
