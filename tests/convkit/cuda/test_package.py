"""What a wheel of the project holds: without the sources no kernel can be compiled where it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_a_wheel_holds_every_source_and_header(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("convkit", "convkit_models", "convkit_plugins")
        for suffix in ("cu", "cuh", "h")
        for path in (ROOT / package).rglob(f"*.{suffix}")
    }
    assert "convkit/cuda/include/convkit.cuh" in sources
    assert sources <= held
