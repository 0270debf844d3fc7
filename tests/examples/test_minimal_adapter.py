"""The example of a third party: installed into a fresh environment, used, and taken out again."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits
from support.installs import fresh_venv, install, run, session

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "convkit-adapter-minimal"
WEIGHTS = EXAMPLE / "digits.pt"

pytestmark = pytest.mark.slow


PRECISIONS = ("fp32", "fp16", "bf16")
ROWS = range(1757, 1797)
"""The last digits that scikit-learn bundles: training never saw them."""


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A fresh environment, and the adapters that it has without the example."""
    executable = fresh_venv(tmp_path_factory.mktemp("venv") / "venv")
    return executable, set(adapters(executable))


@pytest.fixture(scope="module")
def python(others: tuple[Path, set[str]]) -> Path:
    """The Python of an environment that has the example."""
    executable, _ = others
    install(executable, EXAMPLE)
    return executable


@pytest.fixture(scope="module")
def said(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What commands print that convert the shipped checkpoint, and use and build the artifact; "folder" is theirs."""
    folder = tmp_path_factory.mktemp("converted")
    (folder / "images").mkdir()
    digits = load_digits()
    for row in ROWS:  # ten times enlarged and dark on light
        image = np.kron(np.rint(digits.images[row] * 255 / 16).astype(np.uint8), np.ones((10, 10), np.uint8))
        assert cv2.imwrite(str(folder / "images" / f"{row}.png"), image)
    shutil.copytree(EXAMPLE / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(WEIGHTS, folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    commands = {
        "adapters": ["convkit", "adapters", "--json"],
        "convert": ["convkit", "convert", "minimal-digits", "-w", str(WEIGHTS), "-o", "digits"],
        "validate": ["convkit", "validate", "digits", "--json"],
        "run": ["convkit", "run", "digits", "images", "--json"],
        "tests": ["pytest", "-q", "tests"],  # beside the checkpoint alone: the installed package is what they see
    }
    if importlib.util.find_spec("tensorrt_rtx_bindings"):
        for precision in PRECISIONS:
            words = ["--to", "tensorrt-rtx", "--target", "sm86", "--precision", precision, "--json", "-q"]
            commands[precision] = ["convkit", "build", "digits", *words]
    printed = session(python, folder, [*commands.values()])
    return dict(zip(commands, printed, strict=True)) | {"folder": str(folder)}


@pytest.fixture(scope="module")
def converted(said: dict[str, str]) -> Path:
    """The artifact that the command line makes of the shipped checkpoint."""
    assert said["convert"].splitlines() == ["digits"]
    return Path(said["folder"], "digits")


def adapters(python: Path) -> dict[str, Any]:
    """Return what a command of its own lists."""
    return {entry["name"]: entry for entry in json.loads(run(python, "-m", "convkit", "adapters", "--json").stdout)}


def test_adapter_is_listed_with_its_distribution(said: dict[str, str]) -> None:
    (entry,) = (entry for entry in json.loads(said["adapters"]) if entry["name"] == "minimal-digits")
    assert (entry["distribution"], entry["version"]) == ("convkit-adapter-minimal", "0.1.0")
    assert entry["forms"] == ["logits", "probabilities"]


def test_converted_artifact_is_proved_and_validates(said: dict[str, str]) -> None:
    verdict = json.loads(said["validate"])
    assert verdict["passed"], verdict["headline"]
    assert {check["kind"] for check in verdict["checks"]} >= {"values", "decoded", "shape", "batch"}


def test_manifest_records_the_rewrite_and_the_patch(converted: Path) -> None:
    manifest = json.loads((converted / "manifest.json").read_text())
    assert manifest["adapter"]["distribution"] == "convkit-adapter-minimal"
    (rewrite,) = (record for record in manifest["rewrites"] if record["name"] == "minimal.hard-swish")
    assert (rewrite["plugin"], rewrite["fired"], rewrite["expect"]) == ("minimal", 3, "exactly 3")
    assert len(rewrite["removed"]) == 12
    assert rewrite["added"] == [f"blocks.{index}/HardSwish" for index in range(3)]
    (patch,) = manifest["patches"]["minimal"]
    assert (patch["name"], patch["fired"]) == ("minimal.single-output", 1)


def test_digits_are_recognised(said: dict[str, str]) -> None:
    found = {
        Path(entry["image"]).stem: entry["classes"][0]["class_id"]
        for entry in map(json.loads, said["run"].splitlines())
    }
    target = load_digits().target
    assert len(target) == ROWS.stop
    right = [found[str(row)] == target[row] for row in ROWS]
    assert sum(right) >= 38


@pytest.mark.parametrize("precision", PRECISIONS)
def test_its_engine_is_built(said: dict[str, str], precision: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    ladder = json.loads(said[precision])["ladder"]
    passed = {"exported", "decoded", "accepted", "understood", "built"} | ({"typed"} if precision != "fp32" else set())
    assert {name for name, rung in ladder.items() if rung["status"] == "passed"} == passed


def test_its_own_tests_pass(said: dict[str, str]) -> None:
    summary = said["tests"].splitlines()[-1]
    assert re.fullmatch(r"\d+ passed, 4 skipped in .*", summary), summary  # it has no device sides


def test_uninstalled_adapter_is_gone(others: tuple[Path, set[str]], python: Path) -> None:
    """The last test: it takes the example out of the environment of all."""
    _, before = others
    assert set(adapters(python)) - before == {"minimal-digits"}
    run(python, "-m", "pip", "uninstall", "--yes", "--quiet", "convkit-adapter-minimal")
    assert set(adapters(python)) == before
    done = run(python, "-m", "convkit", "convert", "minimal-digits", "-w", str(WEIGHTS), code=1)
    assert "There is no adapter 'minimal-digits'" in done.stderr
