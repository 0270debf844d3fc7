"""The example of a third party: installed into a fresh environment, used, and taken out again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.installs import fresh_venv, install, run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "convkit-adapter-minimal"
WEIGHTS = EXAMPLE / "digits.pt"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the example."""
    executable = fresh_venv(tmp_path_factory.mktemp("venv") / "venv")
    install(executable, EXAMPLE)
    return executable


@pytest.fixture(scope="module")
def converted(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact that the command line makes of the shipped checkpoint."""
    folder = tmp_path_factory.mktemp("converted")
    done = convkit(python, "convert", "minimal-digits", "-w", str(WEIGHTS), "-o", "digits", cwd=folder)
    assert done.splitlines() == ["digits"]
    return folder / "digits"


def convkit(python: Path, *arguments: str, cwd: Path, code: int = 0) -> str:
    """Return what the command wrote to stdout."""
    return run(python, "-m", "convkit", *arguments, cwd=cwd, code=code).stdout


def adapters(python: Path, cwd: Path) -> dict[str, Any]:
    return {entry["name"]: entry for entry in json.loads(convkit(python, "adapters", "--json", cwd=cwd))}


def test_adapter_is_listed_with_its_distribution(python: Path, tmp_path: Path) -> None:
    entry = adapters(python, tmp_path)["minimal-digits"]
    assert (entry["distribution"], entry["version"]) == ("convkit-adapter-minimal", "0.1.0")
    assert entry["forms"] == ["logits", "probabilities"]


def test_converted_artifact_is_proved_and_validates(python: Path, converted: Path) -> None:
    verdict = json.loads(convkit(python, "validate", str(converted), "--json", cwd=converted.parent))
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


def test_digits_are_recognised(python: Path, converted: Path, tmp_path: Path) -> None:
    """Digits that scikit-learn bundles and training never saw, ten times enlarged and dark on light."""
    import cv2
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = range(len(digits.target) - 40, len(digits.target))
    for row in rows:
        image = np.kron(np.rint(digits.images[row] * 255 / 16).astype(np.uint8), np.ones((10, 10), np.uint8))
        assert cv2.imwrite(str(tmp_path / f"{row}.png"), image)
    lines = convkit(python, "run", str(converted), str(tmp_path), "--json", cwd=tmp_path).splitlines()
    found = {Path(entry["image"]).stem: entry["classes"][0]["class_id"] for entry in map(json.loads, lines)}
    right = [found[str(row)] == digits.target[row] for row in rows]
    assert sum(right) >= 38


def test_its_own_tests_pass(python: Path, tmp_path: Path) -> None:
    """The tests are run beside the checkpoint alone, so that the installed package is what they see."""
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(WEIGHTS, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = run(python, "-m", "pytest", "-q", "tests", cwd=tmp_path)
    summary = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ passed, 4 skipped in .*", summary), summary  # it has no device sides


def test_uninstalled_adapter_is_gone(tmp_path: Path) -> None:
    python = fresh_venv(tmp_path / "venv")
    before = set(adapters(python, tmp_path))
    install(python, EXAMPLE)
    assert set(adapters(python, tmp_path)) - before == {"minimal-digits"}
    run(python, "-m", "pip", "uninstall", "--yes", "--quiet", "convkit-adapter-minimal")
    assert set(adapters(python, tmp_path)) == before
    done = run(python, "-m", "convkit", "convert", "minimal-digits", "-w", str(WEIGHTS), cwd=tmp_path, code=1)
    assert "There is no adapter 'minimal-digits'" in done.stderr


def test_its_engines_are_built_in_every_precision(python: Path, converted: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    shutil.copytree(converted, tmp_path / "digits")
    for precision in ("fp32", "fp16", "bf16"):
        words = ("--to", "tensorrt-rtx", "--target", "sm86", "--precision", precision, "--json", "-q")
        ladder = json.loads(convkit(python, "build", "digits", *words, cwd=tmp_path))["ladder"]
        passed = {"exported", "decoded", "accepted", "understood", "built"} | (
            {"typed"} if precision != "fp32" else set()
        )
        assert {name for name, rung in ladder.items() if rung["status"] == "passed"} == passed
