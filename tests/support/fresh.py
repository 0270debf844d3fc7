"""Functions that the tests call in a process of their own."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from convkit.errors import SettingError
from convkit.plugins import manager


def describe(argument: Any) -> dict[str, Any]:
    plugins = [info.name for info in manager().infos()]
    return {"argument": argument, "process": os.getpid(), "plugins": plugins}


def refuse(argument: str) -> None:
    raise SettingError(argument, hint="Give another.")


def chatter(argument: int) -> int:
    print("{}")
    os.write(1, b"more\n")
    return argument


def crash(argument: Any) -> None:
    print("a last word", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(argument: Any) -> None:
    os._exit(7)


def stumble(argument: Any) -> float:
    return 1 / 0


def wait(argument: float) -> None:
    time.sleep(argument)


def note_and_wait(argument: str) -> None:
    Path(argument).write_text(str(os.getpid()))
    time.sleep(3600)
