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

KILLS = [f"SIGKILL@{fraction}" for fraction in (0.1, 0.5, 0.85, 0.93, 0.98)]
INTERRUPTIONS = [f"SIGINT@{fraction}" for fraction in (0.2, 0.6, 0.9)]
"""When the signal comes, as a share of a whole conversion; towards the end files are written."""


@pytest.fixture(scope="module")
def outcomes(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Return the folder of all conversions and the exit status of each."""
    site, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    write_distribution(site, "convkit-toy", {"toy": "toy_entry:plugin"}, {"toy_entry": TOY_MODULE})
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[1])]),
        "CONVKIT_LOAD_PLUGINS": "toy,graph,onnxruntime",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, killed.__file__, str(work), str(toy_weights_file), *KILLS, *INTERRUPTIONS]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return work, {line.split()[0]: int(line.split()[1]) for line in run.stdout.splitlines()}


@pytest.mark.slow
def test_a_killed_conversion_leaves_an_artifact_that_is_whole_or_none(outcomes, toy, toy_weights_file):
    work, statuses = outcomes
    assert [statuses[event] for event in KILLS].count(-9) >= 3, statuses
    without = []
    for event in KILLS:
        output = work / event / "out"
        if output.exists():
            Artifact.open(output).verify()
        else:
            without.append(work / event)
        for entry in output.parent.iterdir():
            if entry != output:
                assert entry.name.startswith(".out.")
                with pytest.raises(ArtifactError):
                    Artifact.open(entry)
    folder = without[-1]
    convert("toy", weights=toy_weights_file, output=folder / "out", samples=1).verify()
    assert [entry.name for entry in folder.iterdir()] == ["out"], "what the killed one left is cleared away"


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_one_line_and_leaves_nothing(outcomes):
    work, statuses = outcomes
    assert [statuses[event] for event in INTERRUPTIONS].count(130) >= 2, statuses
    for event in INTERRUPTIONS:
        folder = work / event
        log = folder.with_suffix(folder.suffix + ".log").read_text()
        assert "Traceback" not in log
        if statuses[event] == 0:
            Artifact.open(folder / "out").verify()
            continue
        assert statuses[event] == 130
        assert log.splitlines()[-1] == "interrupted; nothing was written"
        assert list(folder.iterdir()) == []
