"""The command line as a whole: exit codes, help, speed, and what goes to which stream."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.plugins import write_distribution

import convkit
from convkit import errors, plugins
from convkit.cli import execute, take_blocked
from convkit.errors import ConvkitError, SettingError

COMMANDS = ["adapters", "convert", "diff", "doctor", "evaluate", "inspect", "new", "plugins", "run", "validate"]

RAISER = """
import convkit.errors
from convkit import hookimpl

@hookimpl
def convkit_commands(app):
    @app.command("raise")
    def raise_(name: str):
        '''Raise an error.'''
        kind = getattr(convkit.errors, name, None) or getattr(__import__("builtins"), name)
        raise kind("The fact.", hint="the remedy") if issubclass(kind, convkit.errors.ConvkitError) else kind("bug")

    @app.command("answer")
    def answer(code: int) -> int:
        '''Return a code.'''
        return code
"""


@pytest.fixture
def extended(toy_site, tmp_path, monkeypatch, cli):
    """Return the command line with two further commands from a plugin."""
    site = write_distribution(
        tmp_path / "site", "raiser", {"raiser": "raiser_entry_point"}, {"raiser_entry_point": RAISER}
    )
    monkeypatch.syspath_prepend(str(site))
    return cli


KINDS = sorted(name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ConvkitError))


@pytest.mark.parametrize("name", KINDS)
def test_every_error_for_people_gives_its_exit_code_a_fact_and_a_remedy(extended, name):
    said = extended("raise", name)
    assert said.code == getattr(errors, name).exit_code
    assert said.out == ""
    assert said.err == "error: The fact.\n  hint: the remedy\n"


def test_an_error_nobody_expected_keeps_its_traceback(extended):
    with pytest.raises(ZeroDivisionError):
        extended("raise", "ZeroDivisionError")


def test_ctrl_c_ends_with_130_and_one_line(extended):
    said = extended("raise", "KeyboardInterrupt")
    assert said.code == 130
    assert said.err.strip().splitlines()[-1] == "interrupted"


def test_debugging_shows_the_traceback_of_any_error(extended, monkeypatch):
    monkeypatch.setenv("CONVKIT_DEBUG", "1")
    with pytest.raises(errors.ImageError):
        extended("raise", "ImageError")
    monkeypatch.setenv("CONVKIT_DEBUG", "0")
    assert extended("raise", "ImageError").code == 1


@pytest.mark.parametrize("code", [0, 4, 77])
def test_the_code_a_command_returns_is_the_exit_code(extended, code):
    assert extended("answer", code).code == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "nonsense"),
        (["convert"], "adapter"),
        (["convert", "toy"], "--weights"),
        (["convert", "toy", "--weights", "x", "--opset", "many"], "--opset"),
        (["convert", "toy", "--weights", "x", "--nonsense"], "--nonsense"),
        (["run", "a", "b", "--batch", "0"], "--batch"),
        (["run", "a", "b", "--score", "1.5"], "--score"),
        (["run", "a"], "FILE"),
        (["adapters", "--no-plugin"], "--no-plugin needs a name"),
    ],
)
def test_a_wrong_usage_is_code_2_with_the_reason_on_stderr(cli, words, message):
    said = cli(*words)
    assert said.code == 2
    assert said.out == ""
    assert message.lower() in said.err.lower()


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command_with_its_purpose(cli, flag):
    said = cli(flag)
    assert said.code == 0
    assert said.err == ""
    listed = {line.split()[0]: line.split(maxsplit=1)[1:] for line in said.lines if line.startswith("  ")}
    for command in COMMANDS:
        assert listed.get(command), f"{command} is not listed with a purpose"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_no_option_undescribed(cli, command):
    said = cli(command, "--help")
    assert said.code == 0
    assert said.lines[0].lower().startswith("usage: convkit")
    if command != "new":
        assert "--json" in said.out


def test_the_version_is_printed_on_stdout(cli):
    said = cli("--version")
    assert (said.code, said.out, said.err) == (0, f"convkit {convkit.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "blocked", "rest"),
    [
        (["a", "--no-plugin", "x", "b"], ["x"], ["a", "b"]),
        (["--no-plugin=x", "--no-plugin", "y"], ["x", "y"], []),
        (["a", "--", "--no-plugin", "x"], [], ["a", "--", "--no-plugin", "x"]),
        (["a", "--no-plugins"], [], ["a", "--no-plugins"]),
    ],
)
def test_blocked_plugins_are_taken_from_anywhere_before_a_double_dash(words, blocked, rest):
    assert take_blocked(words) == (blocked, rest)


def test_a_blocked_plugin_needs_a_name():
    with pytest.raises(SettingError):
        take_blocked(["adapters", "--no-plugin"])


def test_a_plugin_can_be_left_out_of_one_command(cli):
    assert "toy" in cli("adapters").out
    assert "toy" not in cli("adapters", "--no-plugin", "toy").out
    assert "toy" not in cli("--no-plugin=toy", "adapters").out
    said = cli("adapters", "--no-plugin", "tyo")
    assert said.code == 2
    assert "Did you mean 'toy'" in said.err


def test_a_broken_plugin_is_named_on_stderr_and_the_command_works(cli, tmp_path, monkeypatch):
    site = write_distribution(tmp_path / "site", "wreck", {"wreck": "wreck_entry_point"}, {"wreck_entry_point": "1/0"})
    monkeypatch.syspath_prepend(str(site))
    said = cli("adapters")
    assert said.code == 0
    assert "centernet" in said.out
    assert said.err == "warning: plugin 'wreck' of wreck is left out: ZeroDivisionError: division by zero\n"
    assert cli("adapters", "--no-plugin", "wreck").err == ""


def test_a_plugin_whose_commands_fail_is_named_with_the_way_out(cli, tmp_path, monkeypatch):
    source = "from convkit import hookimpl\n@hookimpl\ndef convkit_commands(app): raise OSError('no')\n"
    site = write_distribution(tmp_path / "site", "wreck", {"wreck": "wreck_entry_point"}, {"wreck_entry_point": source})
    monkeypatch.syspath_prepend(str(site))
    said = cli("adapters")
    assert said.code == 5
    assert "'wreck' failed in convkit_commands: OSError: no" in said.err
    assert "--no-plugin wreck" in said.err
    assert cli("adapters", "--no-plugin", "wreck").code == 0


def test_the_command_line_can_be_run_many_times_in_one_process(cli):
    assert [cli("--version").code, cli("nonsense").code, cli("adapters").code] == [0, 2, 0]
    assert execute(["--version"]) == 0
    assert plugins.manager().adapters()


def fresh(*words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return fresh_python(*flags, "-m", "convkit", *words)


def fresh_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment)


@pytest.mark.parametrize("words", [("--help",), ("adapters",), ("plugins",), ("--version",), ("convert", "--help")])
def test_what_only_lists_imports_nothing_heavy(words):
    run = fresh(*words, flags=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in imported
    assert imported & {"torch", "onnx", "onnxruntime", "onnx_graphsurgeon", "polygraphy", "cv2", "numpy"} == set()


LIBRARIES = """
import importlib.metadata, inspect, sys
from typing import Annotated
import pluggy, typer
app = typer.Typer(add_completion=False, rich_markup_mode=None)
@app.command()
def command(name: Annotated[str | None, typer.Argument()] = None, json: Annotated[bool, typer.Option()] = False): ...
importlib.metadata.version("convkit")
app(standalone_mode=False)
"""
LONGER = 2.0
"""Usual is 1.6; NumPy, imported by the command line itself, makes 2.4 of it for ``--help``."""


@pytest.mark.parametrize("words", [("--help",), ("adapters",)])
def test_what_only_lists_answers_at_once(words):
    """It takes little more of the processor than the smallest command line of the same libraries, on any machine.

    The best of some runs counts: the others measure what else the machine is doing. docs/performance.md has seconds.
    """
    given = () if words == ("adapters",) else words
    own, libraries = [], []
    for _ in range(8):
        own.append(seconds(lambda: fresh(*words)))
        libraries.append(seconds(lambda: fresh_python("-c", LIBRARIES, *given)))
        if min(own) < LONGER * min(libraries):
            return
    assert min(own) < LONGER * min(libraries), f"convkit {' '.join(words)}: {min(own):.2f} s, {min(libraries):.2f} s"


def seconds(call: Callable[[], object]) -> float:
    """Return the processor's seconds that the call's processes took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_a_closed_pipe_is_no_error():
    """As in ``convkit plugins | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [sys.executable, "-m", "convkit", "plugins"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert run.returncode == 0
    assert run.stderr == ""


def test_the_installed_script_is_the_same_program():
    script = Path(sys.executable).with_name("convkit")
    run = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"convkit {convkit.__version__}\n"


@pytest.mark.parametrize("place", ["full", "closed"])
def test_a_full_or_closed_standard_output_is_a_problem_of_the_environment(place):
    redirection = ">/dev/full" if place == "full" else ">&-"
    said = subprocess.run(
        ["sh", "-c", f'exec "$0" -m convkit plugins {redirection}', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 5
    assert said.stderr.startswith("error: Standard output cannot be written: ")
    assert len(said.stderr.splitlines()) == 2
