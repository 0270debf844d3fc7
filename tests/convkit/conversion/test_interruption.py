"""A conversion that is killed or interrupted at any moment: nothing half-made is ever taken for an artifact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import killed
from support.every_case import EVERY_CASE
from support.plugins import TOY_MODULE, write_distribution

from convkit import Artifact, convert
from convkit.errors import ArtifactError

ROOT = Path(__file__).parents[3]
MOMENTS = (
    "reading",
    "running PyTorch",
    "exporting",
    "half of model.onnx",
    "proving",
    "writing",
    "half of manifest.json",
)
# Files are half-written at the last moment and at the fourth; each other moment gets one of the two signals in turn.
KILLS = [f"SIGKILL@{moment}" for moment in (MOMENTS if EVERY_CASE else (*MOMENTS[1::2], MOMENTS[-1]))]
INTERRUPTIONS = {f"SIGINT@{moment}": 130 for moment in (MOMENTS if EVERY_CASE else (*MOMENTS[::2], MOMENTS[3]))} | {
    "SIGTERM@proving": 143,
    "SIGHUP@half of manifest.json": 129,
}


@pytest.fixture(scope="module")
def outcomes(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Return the folder of all conversions and the exit status of each."""
    site, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    write_distribution(site, "convkit-toy", {"toy": "toy_entry:plugin"}, {"toy_entry": TOY_MODULE})
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (site, ROOT, ROOT / "tests"))),
        "CONVKIT_LOAD_PLUGINS": "toy,graph,onnxruntime",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, killed.__file__, str(work), str(toy_weights_file), *KILLS, *INTERRUPTIONS]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return work, {event: int(status) for event, status in (line.split("\t") for line in run.stdout.splitlines())}


@pytest.mark.slow
def test_a_killed_conversion_leaves_nothing_that_is_taken_for_an_artifact(outcomes, toy, toy_weights_file):
    work, statuses = outcomes
    assert [statuses[event] for event in KILLS] == [-9] * len(KILLS), statuses
    for event in KILLS:
        assert not (work / event / "out").exists()
        for entry in (work / event).iterdir():
            assert entry.name.startswith(".out.")
            with pytest.raises(ArtifactError):
                Artifact.open(entry)
    folder = work / KILLS[-1]
    assert list(folder.iterdir()), "the last one was killed while it wrote"
    convert("toy", weights=toy_weights_file, output=folder / "out", samples=1).artifact.verify()
    assert [entry.name for entry in folder.iterdir()] == ["out"], "what the killed one left is cleared away"


@pytest.mark.slow
def test_ctrl_c_and_its_like_end_with_their_code_and_one_line_and_leave_nothing(outcomes):
    work, statuses = outcomes
    assert {event: statuses[event] for event in INTERRUPTIONS} == INTERRUPTIONS
    for event in INTERRUPTIONS:
        log = (work / f"{event}.log").read_text()
        assert "Traceback" not in log
        assert log.splitlines()[-1] == "interrupted; nothing was written"
        assert list((work / event).iterdir()) == []
