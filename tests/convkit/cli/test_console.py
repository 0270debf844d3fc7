"""Where the command line writes: results to stdout, progress to stderr, colour only where it is wanted."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys

import pytest

from convkit.cli import _console
from convkit.cli._console import emit, emit_json, error_text, set_verbosity, stderr, stdout, steps
from convkit.cli._layout import add_row, aligned, grid, show, styled, table
from convkit.errors import ImageError


@pytest.fixture(autouse=True)
def _normal_verbosity():
    set_verbosity()
    yield
    set_verbosity()


def test_results_go_to_stdout_and_notes_to_stderr(capsys):
    emit("a result")
    stdout().print("a table")
    stderr().print("a note")
    captured = capsys.readouterr()
    assert captured.out == "a result\na table\n"
    assert captured.err == "a note\n"


def test_json_keeps_letters_of_every_language(capsys):
    emit_json({"name": "数字 äöü"})
    emit_json([1, 2], indent=None)
    out = capsys.readouterr().out
    assert "数字 äöü" in out
    assert out.endswith("[1, 2]\n")
    assert json.loads(out[: out.index("[")]) == {"name": "数字 äöü"}


@pytest.mark.parametrize("name", ["数字", "café", "😀", "caf\udce9"])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_that_stdout_cannot_encode_is_escaped(monkeypatch, encoding, name):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    emit_json({"name": name})
    assert json.loads(stream.buffer.getvalue().decode(encoding)) == {"name": name}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_command_line_escapes_text_that_stdout_cannot_encode(encoding):
    """It runs in a process of its own: the encoding of stdout is chosen when Python starts."""
    script = "from convkit import cli; cli.execute = lambda words: cli._console.emit('caf\\xe9 \\u8f66 \\udce9'); "
    script = f"import convkit.cli._console; {script} cli.main([])"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert run.stdout == "café 车 \udce9\n".encode(encoding, "backslashreplace")


def test_an_error_shows_the_fact_and_below_it_the_remedy():
    assert (
        error_text(ImageError("No such image.", hint="Check the path."))
        == "error: No such image.\n  hint: Check the path."
    )
    assert error_text(ImageError("No such image.")) == "error: No such image."


def test_each_step_is_one_line_when_stderr_is_no_terminal(capsys):
    with steps("convert toy") as step:
        step("reading [the] checkpoint")
        for done in range(5):
            step("proving", done, 5)
        step("writing")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "convert toy: reading [the] checkpoint",
        "convert toy: proving",
        "convert toy: writing",
    ]


def test_a_long_count_says_now_and_then_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(_console, "LINE_SECONDS", -1.0)
    with steps("evaluate") as step:
        for done in range(3):
            step("running images", done, 3)
    assert capsys.readouterr().err.splitlines() == [
        "evaluate: running images",
        "evaluate: running images: 1 of 3",
        "evaluate: running images: 2 of 3",
    ]


def test_quiet_says_nothing_and_verbose_says_how_long_each_step_took(capsys):
    set_verbosity(quiet=True)
    with steps("convert") as step:
        step("reading")
    stderr().print("another note")
    assert capsys.readouterr() == ("", "")
    set_verbosity(verbose=True)
    with steps("convert") as step:
        step("reading")
        step("writing")
    lines = capsys.readouterr().err.splitlines()
    assert [line.strip().split(":")[0] for line in lines] == ["convert", "reading", "convert", "writing"]
    assert lines[1].endswith(" s")


def test_the_time_the_steps_took_is_known_afterwards():
    with steps("work") as step:
        pass
    assert 0 <= step.seconds < 10


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, stream: str) -> str:
    """Return what a styled line and some steps write when ``stream`` is a terminal."""
    leader, follower = pty.openpty()
    with io.TextIOWrapper(os.fdopen(follower, "wb", buffering=0), write_through=True) as terminal:
        monkeypatch.setattr(sys, stream, terminal)
        monkeypatch.setenv("TERM", "xterm-256color")
        (stdout() if stream == "stdout" else stderr()).print("[green]ok[/green]")
        if stream == "stderr":
            with steps("work") as step:
                step("a step", 1, 2)
                if step.bar:
                    step.bar.refresh()  # which a timer does otherwise, sooner or later
        monkeypatch.undo()
        content = os.read(leader, 100_000).decode()
    os.close(leader)
    return content


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_colour_is_used_on_a_terminal_and_not_with_no_color(monkeypatch, stream):
    assert "\x1b[32mok" in on_a_terminal(monkeypatch, stream)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = on_a_terminal(monkeypatch, stream)
    assert "ok" in plain
    assert "\x1b[32m" not in plain


def test_on_a_terminal_the_step_is_shown_as_a_bar(monkeypatch):
    assert "work: a step" in on_a_terminal(monkeypatch, "stderr")


def test_control_characters_from_files_do_not_reach_the_terminal(capsys):
    emit("a\x1b[2Jb\x07\tc\x9b")
    show(stdout(), "x", styled("c\x1b]0;owned\x07", "bold"))
    rows = grid(2)
    add_row(rows, "[b]\r", "\x7f")
    show(stdout(), rows)
    with steps("run \x1b[2J") as step:
        step("step \x07")
    said = capsys.readouterr()
    assert said.out == "a\\x1b[2Jb\\x07\tc\\x9b\nx\nc\\x1b]0;owned\\x07\n[b]\\x0d  \\x7f\n"
    assert said.err == "run \\x1b[2J: step \\x07\n"
    assert "\x1b" not in error_text(ImageError("no\x1b[2J", hint="\x1b"))


def test_rows_are_never_broken_or_padded_where_there_is_no_terminal(capsys):
    rows = table("name", "number", "", numbers=(1,))
    add_row(rows, "x" * 300, "1", "")
    add_row(rows, "y", "22", "")
    show(stdout(), rows)
    assert capsys.readouterr().out.splitlines() == [
        "name" + " " * 298 + "number",
        "x" * 300 + "       1",
        "y" + " " * 305 + "22",
    ]


def test_lines_are_aligned_without_rich():
    assert aligned([]) == []
    assert aligned([("a", "b", ""), ("long", "", "c")]) == ["a     b", "long     c"]


def test_no_way_of_printing_lets_a_name_steer_the_terminal_or_break_the_line(capsys):
    name = "a\x1b[2J\n\u202egpj.exe\x9b"
    emit(name)
    stderr().print(f"note: {name}", markup=False)
    emit_json({"name": name})
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == r"a\x1b[2J\n\u202egpj.exe\x9b"
    assert json.loads("".join(said.out.splitlines()[1:])) == {"name": name}
    assert not {"\x1b", "\x9b", "\u202e"} & {*said.out, *said.err}
    assert said.err.startswith(r"note: a\x1b[2J")
