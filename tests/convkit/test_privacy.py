"""Nothing leaves the machine, and nothing is left on it: files and look-ups of a whole process are watched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.faults import build_library, preloaded

ROOT = Path(__file__).parents[2]
RUN = """
import sys
import numpy as np
import convkit
with convkit.load(sys.argv[1]) as predictor:
    tensor = predictor.spec.inputs[0]
    shape = [extent if isinstance(extent, int) else 1 for extent in tensor.item_shape]
    predictor.outputs({tensor.name: np.zeros(shape, tensor.dtype)})
import convkit.proof
"""
LOOK_UP = "import socket; socket.getaddrinfo('localhost', 80)"


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return build_library(tmp_path_factory.mktemp("library"))


def watched(library: Path, folder: Path, script: str, *words: str) -> tuple[list[str], str]:
    """Run a script with a home and a temporary folder of its own; return the files that it left, and its look-ups."""
    home, temporary, log = folder / "home", folder / "tmp", folder / "network"
    for path in (home, temporary):
        path.mkdir()
    (folder / "victim").write_text("keep")
    (temporary / ".ses").symlink_to(folder / "victim")  # where ONNX Runtime's telemetry keeps its session
    places = {"HOME": str(home), "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(home / ".cache")}
    environment = preloaded(library, **places, FAULTS_NETWORK=str(log), PYTHONPATH=str(ROOT))
    del environment["ORT_DISABLE_TELEMETRY"]  # which the tests set for themselves
    subprocess.run([sys.executable, "-c", script, *words], env=environment, check=True)
    assert (folder / "victim").read_text() == "keep", "a planted link was followed"
    left = [path.name for place in (home, temporary) for path in place.rglob("*") if path.name != ".ses"]
    return left, log.read_text() if log.exists() else ""


def test_the_watch_sees_a_look_up(library, tmp_path):
    assert watched(library, tmp_path, LOOK_UP) == ([], "localhost\n")


def test_running_an_artifact_leaves_no_file_and_looks_nothing_up(library, tmp_path, embedding_artifact):
    assert watched(library, tmp_path, RUN, str(embedding_artifact.path)) == ([], "")


def test_polygraphy_installs_nothing_whatever_the_environment_says():
    script = "import convkit.proof._engines, polygraphy.config; print(polygraphy.config.AUTOINSTALL_DEPS)"
    environment = preloaded(Path(), POLYGRAPHY_AUTOINSTALL_DEPS="1", LD_PRELOAD="", PYTHONPATH=str(ROOT))
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
