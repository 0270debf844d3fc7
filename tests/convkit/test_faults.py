"""A quick selection of `benchmarks/faults.py`: kills, failing disks, hostile files; none may offend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COUNT = 6


@pytest.mark.slow
def test_nothing_offends_in_a_selection_of_trials(tmp_path):
    kinds = ["kills", "errnos", "settings", "weights", "graphs", "images"]
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--seed", "7", "--json", "--count", str(COUNT)]
    run = subprocess.run([*command, "--only", *kinds], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.stdout, run.stderr
    report = json.loads(run.stdout)
    assert {kind: report[kind]["offenders"] for kind in kinds} == {kind: [] for kind in kinds}
    assert all(report[kind]["cases"] == COUNT for kind in kinds)
    assert sum(report[kind]["ends"].get("refused", 0) for kind in kinds) > COUNT
    assert run.returncode == 0


def test_eight_processes_on_one_output_artifact_and_cache_leave_what_one_leaves(embedding_artifact, tmp_path):
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(ROOT / "tests")!r}]
from support.trials import Trial, together_cases
cases = together_cases(Path({str(embedding_artifact.path)!r}), Path({str(tmp_path)!r}), 1, conversions=False)
trial = Trial("together").run(cases)
print(dict(trial.ends), [outcome.text for outcome in trial.offenders])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "{'done': 3} []\n"


def test_an_offence_is_told_from_a_refusal():
    script = f"""
import os, sys
sys.path[:0] = [{str(ROOT / "tests")!r}]
from support.trials import in_child
from convkit.errors import InputError
def refuse(): raise InputError("no")
def hungry(): bytearray(os.urandom(1 << 20) * 1200)
works = (lambda: None, refuse, lambda: 1 / 0, os.abort, lambda: print(chr(27)), hungry)
print([in_child(("x", work, 0), in_child(("idle", lambda: None, 0), 0).bytes).end for work in works])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ends = ["done", "refused", "traceback", "signal 6", "control characters", "memory"]
    assert run.stdout == f"{ends}\n"
