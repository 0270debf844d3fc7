"""The command line: ``convkit``."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["application", "execute", "main"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # PyTorch's threads wait for each other by spinning; on cores that are busy otherwise that costs up to tenfold.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    atexit.register(gc.freeze)  # the process ends: collecting what PyTorch's exporter left takes seconds
    from convkit.cli._streams import guard_streams

    guard_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    received = _ended_by_signals()
    code = _flushed(execute(words))
    sys.exit(128 + received[0] if code == INTERRUPTED and received else code)


def application() -> Any:
    """Return the typer application with the commands of the core and of all plugins."""
    from convkit.cli._app import build_app
    from convkit.plugins import manager

    return build_app(manager())


def execute(words: list[str]) -> int:
    """Run the command line; return the exit code.

    Errors meant for people are printed without a traceback unless CONVKIT_DEBUG=1.
    """
    from convkit.errors import ConvkitError

    try:
        with _shown_plugin_warnings():
            blocked, words = take_blocked(words)
            return _run(words, blocked)
    except ConvkitError as error:
        if os.environ.get("CONVKIT_DEBUG", "0") not in ("", "0"):
            raise
        from convkit.cli._console import error_text

        sys.stderr.write(error_text(error) + "\n")
        return error.exit_code
    except KeyboardInterrupt as error:
        outcome = getattr(error, "outcome", "")
        sys.stderr.write(f"interrupted{'; ' * bool(outcome)}{outcome}\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _flushed(code: int) -> int:
    """Hand over the rest of stdout to the system; return the exit code, or that of the failure to do so."""
    from convkit.errors import ConvkitError

    try:
        sys.stdout.flush()
    except ConvkitError as error:
        sys.stderr.write(f"error: {error.message}\n  hint: {error.hint}\n")
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


@contextmanager
def _shown_plugin_warnings() -> Iterator[None]:
    """Write what `convkit.plugins` warns of in the block as one line to stderr, each time."""
    import warnings

    from convkit.plugins import PluginWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", PluginWarning)
        show = warnings.showwarning

        def showwarning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, PluginWarning):
                sys.stderr.write(f"warning: {message}\n")
            else:
                show(message, category, *place, **more)

        warnings.showwarning = showwarning
        yield


def take_blocked(words: list[str]) -> tuple[list[str], list[str]]:
    """Take every ``--no-plugin NAME`` out of the words: plugins add commands, so this comes before all else.

    Raises:
        SettingError: the name is missing.
    """
    if not any(word.startswith("--no-plugin") for word in words):
        return [], words
    import argparse

    from convkit.errors import SettingError

    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--no-plugin", action="append", default=[], dest="blocked")
    try:
        known, rest = parser.parse_known_args(words[:end])
    except argparse.ArgumentError as error:
        raise SettingError("--no-plugin needs a name.", hint="`convkit plugins` lists them.") from error
    return known.blocked, [*rest, *words[end:]]


def _ended_by_signals() -> list[int]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does; return the list that gets the number of one that came.

    A SIGHUP that is ignored, as by nohup, stays so. A second signal is ignored while the first is followed.
    """
    received: list[int] = []

    def end(number: int, frame: object) -> None:
        del frame
        if not received:
            received.append(number)
            raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    return received


class _CarriedError(Exception):
    """Takes the exception that is its cause past typer, which would make another one of it."""


def _carrying(invoke: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(invoke)
    def carrying(*arguments: Any, **more: Any) -> Any:
        try:
            return invoke(*arguments, **more)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise _CarriedError from error

    return carrying


def _run(words: list[str], blocked: list[str]) -> int:
    import typer

    from convkit import plugins

    plugins.block(blocked)
    command: Any = typer.main.get_command(application())
    command.invoke = _carrying(command.invoke)
    try:
        code = command.main(words, prog_name="convkit", standalone_mode=False)
    except _CarriedError as error:
        carried = error.__cause__ or error
        raise carried from carried.__cause__
    except SystemExit as error:  # how click ends a command whose reader has gone away
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        raise
    except Exception as error:
        # Usage errors are click's in older typers and typer's own in newer ones; both show themselves.
        if not hasattr(error, "show") or not hasattr(error, "exit_code"):
            raise
        error.show()
        return int(error.exit_code)
    if code == INTERRUPTED:  # newer typers turn Ctrl-C into this code and say nothing
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0
