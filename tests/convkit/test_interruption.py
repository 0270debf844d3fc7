"""A conversion that is killed or interrupted at any moment: nothing half-made is ever taken for an artifact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import killed
from support.plugins import TOY_MODULE, write_distribution

from convkit import Artifact, convert
from convkit.errors import ArtifactError

FRACTIONS = {
    "SIGKILL": ["0.05", "0.2", "0.45", "0.7", "0.85", "0.93", "0.97", "1.01"],
    "SIGINT": ["0.05", "0.3", "0.6", "0.8", "0.95"],
}
"""When the signal comes, as a share of a whole conversion; towards the end files are written."""


def outcomes(folder: Path, weights: Path, signal: str) -> dict[str, int]:
    """Return the exit status of one conversion for each fraction."""
    site = write_distribution(folder / "site", "convkit-toy", {"toy": "toy_entry:plugin"}, {"toy_entry": TOY_MODULE})
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[1])]),
        "CONVKIT_LOAD_PLUGINS": "toy,graph,onnxruntime",
        "OMP_NUM_THREADS": "1",
    }
    (folder / "work").mkdir()
    run = subprocess.run(
        [sys.executable, killed.__file__, str(folder / "work"), str(weights), signal, *FRACTIONS[signal]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return {line.split()[0]: int(line.split()[2]) for line in run.stdout.splitlines()}


@pytest.mark.slow
def test_a_killed_conversion_leaves_an_artifact_that_is_whole_or_none(toy, toy_weights_file, tmp_path):
    statuses = outcomes(tmp_path, toy_weights_file, "SIGKILL")
    assert list(statuses) == FRACTIONS["SIGKILL"]
    assert list(statuses.values()).count(-9) >= 4, statuses
    for fraction in statuses:
        folder = tmp_path / "work" / fraction
        output = folder / "out"
        if output.exists():
            Artifact.open(output).verify()
        for entry in folder.iterdir():
            if entry != output:
                assert entry.name.startswith(".out.")
                with pytest.raises(ArtifactError):
                    Artifact.open(entry)
    last = next(fraction for fraction in reversed(statuses) if not (tmp_path / "work" / fraction / "out").exists())
    folder = tmp_path / "work" / last
    convert("toy", weights=toy_weights_file, output=folder / "out", samples=1).verify()
    assert [entry.name for entry in folder.iterdir()] == ["out"], "what the killed one left is cleared away"


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_one_line_and_leaves_nothing(toy_weights_file, tmp_path):
    statuses = outcomes(tmp_path, toy_weights_file, "SIGINT")
    assert list(statuses) == FRACTIONS["SIGINT"]
    assert list(statuses.values()).count(130) >= 3, statuses
    for fraction, status in statuses.items():
        folder = tmp_path / "work" / fraction
        log = folder.with_suffix(".log").read_text()
        assert "Traceback" not in log
        if status == 0:
            Artifact.open(folder / "out").verify()
            continue
        assert status == 130
        assert log.splitlines()[-1] == "interrupted; nothing was written"
        assert list(folder.iterdir()) == []
