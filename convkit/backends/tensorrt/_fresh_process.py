"""A function called in a process of its own: what a library does to that process, it does not do to this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

from convkit import errors
from convkit.backends._tensorrt_plugin import load_function
from convkit.errors import ConversionError, ConvkitError, EnvironmentProblem
from convkit.plugins import LOAD_VARIABLE

__all__ = ["in_fresh_process", "main"]

TIME_LIMIT = 600.0
"""Seconds after which a process that does not end is ended."""
LOG_LINES = 5
"""Last lines of what the process printed that an error quotes at most."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from convkit.backends.tensorrt._fresh_process import main; main(sys.argv[2])"
)


def in_fresh_process(place: str, argument: Any, *, plugins: bool = True, time_limit: float = TIME_LIMIT) -> Any:
    """Return what ``package.module:function`` returns for an argument; both are values fit for JSON.

    Without ``plugins`` the process loads no plugin of convkit. It is gone when this function ends, however that is.

    Raises:
        ConvkitError: the function raised it.
        EnvironmentProblem: the process crashed or took too long; the error quotes its last words.
    """
    environment = dict(os.environ) if plugins else {**os.environ, LOAD_VARIABLE: ""}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone
        )
        assert child.stdin is not None
        assert child.stdout is not None
        timer = threading.Timer(time_limit, child.kill)
        timer.start()
        try:
            child.stdin.write(json.dumps(argument).encode() + b"\n")
            child.stdin.flush()
            answer = child.stdout.read()
            status = child.wait()
        except BrokenPipeError:
            answer, status = b"", child.wait()
        finally:
            late = not timer.is_alive()
            timer.cancel()
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
        log.seek(0)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if status or not answer:
        how = f"did not end within {time_limit:.0f} s" if late else _how_it_ended(status)
        raise EnvironmentProblem(
            f"The process that called {place.partition(':')[2]} {how}.",
            hint="Its last words:" + "".join(f"\n    {line}" for line in lines[-LOG_LINES:]) if lines else "",
        )
    result = json.loads(answer)
    if "error" in result:
        kind = getattr(errors, result["error"]["kind"], ConversionError)
        raise kind(result["error"]["message"], hint=result["error"]["hint"])
    return result["value"]


def main(place: str) -> None:
    """Read the argument, call the function, print its value or the error; what else is printed goes to stderr."""
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    argument = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        answer = {"value": load_function(place)(argument)}
    except ConvkitError as error:
        answer = {"error": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}}
    report.write(json.dumps(answer))
    report.flush()
    os._exit(0)  # no destructors: some of the library's crash


def _end_with_the_parent() -> None:
    """Wait for the end of the parent, seen as the end of standard input; then end as well."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
