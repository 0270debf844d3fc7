"""Functions called in a process of their own: values and errors come back, crashes and delays are errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from convkit.backends.tensorrt import in_fresh_process
from convkit.errors import EnvironmentProblem, PluginError, SettingError
from convkit.plugins import manager

HERE = "support.fresh"


def test_a_value_comes_back_from_another_process():
    found = in_fresh_process(f"{HERE}:describe", {"a": [1, 2.5, None, "ü"]})
    assert found["argument"] == {"a": [1, 2.5, None, "ü"]}
    assert found["process"] != os.getpid()
    assert found["plugins"] == [info.name for info in manager().infos()]


def test_without_plugins_none_is_loaded():
    assert in_fresh_process(f"{HERE}:describe", {}, plugins=False)["plugins"] == []


def test_an_error_for_people_is_raised_here():
    with pytest.raises(SettingError, match="no such thing") as caught:
        in_fresh_process(f"{HERE}:refuse", "no such thing")
    assert caught.value.hint == "Give another."


def test_a_function_that_is_not_there():
    with pytest.raises(PluginError, match="names no function"):
        in_fresh_process(f"{HERE}:nothing", {})


def test_what_is_printed_is_not_the_answer():
    assert in_fresh_process(f"{HERE}:chatter", 3) == 3


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("crash", "was ended by SIGSEGV", "a last word"),
        ("leave", "ended with exit code 7", ""),
        ("stumble", "ended with exit code 1", "ZeroDivisionError"),
    ],
)
def test_a_process_that_ends_is_an_error_with_its_last_words(name: str, how: str, words: str):
    with pytest.raises(EnvironmentProblem, match=how) as caught:
        in_fresh_process(f"{HERE}:{name}", {})
    assert words in caught.value.hint


def test_a_process_that_does_not_end_is_ended():
    with pytest.raises(EnvironmentProblem, match=r"wait did not end within 1 s"):
        in_fresh_process(f"{HERE}:wait", 3600, time_limit=1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_process_ends_with_its_caller(how: int, tmp_path: Any):
    note = tmp_path / "process"
    code = (
        "from convkit.backends.tensorrt import in_fresh_process;"
        f"in_fresh_process('{HERE}:note_and_wait', {str(note)!r})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=environment)
    while not note.exists() or not note.read_text():
        assert caller.poll() is None
        time.sleep(0.01)
    child = int(note.read_text())
    caller.send_signal(how)
    caller.wait(30)
    for _ in range(500):
        if not _lives(child):
            return
        time.sleep(0.02)
    pytest.fail("it still runs")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as stat:  # noqa: PTH123
        return stat.read().rpartition(")")[2].split()[0] != "Z"
