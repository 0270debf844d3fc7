"""The command line: ``convkit``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # PyTorch's threads wait for each other by spinning; on cores that are busy otherwise that costs up to tenfold.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a name may not fit the encoding of a pipe
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(execute(words))


def execute(words: list[str]) -> int:
    """Run the command line; return the exit code.

    Errors meant for people are printed without a traceback unless CONVKIT_DEBUG=1.
    """
    from convkit.errors import ConvkitError

    try:
        blocked, words = take_blocked(words)
        return _run(words, blocked)
    except ConvkitError as error:
        if os.environ.get("CONVKIT_DEBUG", "0") not in ("", "0"):
            raise
        from convkit.cli._console import error_text

        sys.stderr.write(error_text(error) + "\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def take_blocked(words: list[str]) -> tuple[list[str], list[str]]:
    """Take every ``--no-plugin NAME`` out of the words: plugins add commands, so this comes first."""
    from convkit.errors import SettingError

    blocked: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            rest.extend(words[position:])
            break
        if word == "--no-plugin":
            if position + 1 == len(words):
                raise SettingError("--no-plugin needs a name.", hint="`convkit plugins` lists them.")
            blocked.append(words[position + 1])
            position += 2
            continue
        if word.startswith("--no-plugin="):
            blocked.append(word.partition("=")[2])
        else:
            rest.append(word)
        position += 1
    return blocked, rest


def _run(words: list[str], blocked: list[str]) -> int:
    import typer

    from convkit import plugins
    from convkit.cli._app import build_app

    plugins.block(blocked)
    app = build_app(plugins.manager())
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(words, prog_name="convkit", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
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
