"""The report: the exit code, one line for what belongs together, and no folder of this machine in the JSON."""

from __future__ import annotations

import json
import sysconfig
import tempfile
from pathlib import Path

import pytest

from convkit.doctor.tensorrt import FAILED, NOT_OFFERED, PASSED, SKIPPED, WRONG, Step, TensorRTReport, overview


def steps(*states: str) -> tuple[Step, ...]:
    return tuple(Step("tensorrt", "dcn=gather: ran", state, f"text {i}", case=f"case {i}")
                 for i, state in enumerate(states))  # fmt: skip


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((), 0),
        ((PASSED, SKIPPED, NOT_OFFERED), 0),
        ((SKIPPED,), 0),
        ((PASSED, FAILED), 5),
        ((FAILED, WRONG, PASSED), 4),
    ],
)
def test_exit_code(states: tuple[str, ...], code: int):
    report = TensorRTReport(steps(*states))
    assert report.exit_code == code
    assert report.to_json()["exit_code"] == code


@pytest.mark.parametrize(
    ("states", "state", "text"),
    [
        ((PASSED, PASSED, PASSED), PASSED, "3 of 3; case 2: text 2"),
        ((PASSED, PASSED), PASSED, "case 0: text 0; case 1: text 1"),
        ((PASSED, WRONG, FAILED), WRONG, "case 1: text 1"),
        ((FAILED, PASSED, FAILED, FAILED), FAILED, "case 0: text 0; case 2: text 2; and 1 more"),
        ((NOT_OFFERED, PASSED), PASSED, "case 1: text 1; not offered: case 0: text 0"),
        ((SKIPPED, NOT_OFFERED), NOT_OFFERED, "case 1: text 1"),
    ],
)
def test_what_belongs_together_is_one_line(states: tuple[str, ...], state: str, text: str):
    (joined,) = overview(steps(*states))
    assert (joined.state, joined.text) == (state, text)


def test_what_is_said_of_every_case_is_said_once():
    same = [Step("tensorrt", "ran", SKIPPED, "no GPU", case=case) for case in "abc"]
    (joined,) = overview(same)
    assert joined.text == "no GPU"


def test_sections_and_names_keep_their_order():
    made = [Step(section, name, PASSED, "") for section, name in (("b", "2"), ("a", "1"), ("b", "2"), ("b", "1"))]
    assert [(step.section, step.name) for step in overview(made)] == [("b", "2"), ("a", "1"), ("b", "1")]


def test_folders_of_this_machine_are_not_in_the_report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVKIT_CACHE", "/srv/somewhere/kernels")
    home, temporary = str(Path.home()), tempfile.gettempdir()
    packages = sysconfig.get_path("purelib")
    text = f"{home}/secret.onnx {temporary}/x1/model.plan {packages}/torch/a.py /srv/somewhere/kernels/a.cubin"
    text += f" {Path.cwd()}"
    step = Step("tensorrt", "ran", FAILED, text, text, details={"log": [text], text: {"deep": (text,)}})
    written = json.dumps(TensorRTReport((step,)).to_json())
    for folder in (home, temporary, packages, "/srv/somewhere", str(Path.cwd())):
        assert folder not in written
    for kept in ("<home>/secret.onnx", "<temporary>/x1/model.plan", "<packages>/torch/a.py", "<cache>/a.cubin"):
        assert kept in written


def test_a_folder_is_not_found_in_a_longer_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVKIT_CACHE", "/srv/cache")
    document = TensorRTReport((Step("m", "n", PASSED, "/srv/cache2/x and /srv/cache/x"),)).to_json()
    assert document["steps"][0]["text"] == "/srv/cache2/x and <cache>/x"
