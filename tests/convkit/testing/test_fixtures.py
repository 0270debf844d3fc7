"""How a conformance class is collected and what an author sees who forgot something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CLASSES = """
from convkit.testing import AdapterConformance

class TestForms(AdapterConformance):
    adapter = "centernet"

class TestOneForm(AdapterConformance):
    adapter = "centernet"
    forms = ("heads",)
"""
UNKNOWN = """
from convkit.testing import AdapterConformance

class TestUnknown(AdapterConformance):
    adapter = "centrenet"
"""


def run_pytest(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    file = folder / "test_it.py"
    file.write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", str(file), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_each_form_is_checked_and_forgotten_weights_are_named(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, CLASSES, "-k", "test_patches_come_off_after_an_error")
    for test in ("TestForms", "TestOneForm"):
        assert f"{test} must define the fixture `weights`" in done.stdout
    failed = {line.partition("::")[2].split(" ")[0] for line in done.stdout.splitlines() if line.startswith("ERROR")}
    check = "test_patches_come_off_after_an_error"
    assert failed == {
        *(f"TestForms::{check}[{form}]" for form in ("heads", "tensorrt-pro", "detections")),
        f"TestOneForm::{check}[heads]",
    }


def test_unknown_adapter_is_one_clear_message(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, UNKNOWN)
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert "There is no adapter 'centrenet'." in done.stdout
    assert "Did you mean 'centernet'?" in done.stdout
    assert "pip install -e ." in done.stdout
    assert "Traceback" not in done.stdout
    assert "convkit/plugins.py" not in done.stdout


def test_convkit_itself_does_without_pytest() -> None:
    code = "import sys, convkit, convkit.conversion, convkit.cli; assert not {'pytest', '_pytest'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
