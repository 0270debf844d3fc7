"""``convkit new adapter``: what it writes is complete and passes its own tests; what it refuses leaves nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installs import install, session

from convkit.cli import execute as convkit
from convkit.cli.new import write_adapter
from convkit.errors import OutputError, SettingError

FILES = [
    "README.md",
    "convkit_adapter_my_net/__init__.py",
    "convkit_adapter_my_net/checkpoint.py",
    "convkit_adapter_my_net/network.py",
    "convkit_adapter_my_net/processing.py",
    "pyproject.toml",
    "tests/make_weights.py",
    "tests/test_conformance.py",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; the test fails if anything half-written is left in it."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not [path.name for path in tmp_path.rglob("*.partial")]


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_path_on_stdout_and_next_commands_on_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convkit(["new", "adapter", "my-net"]) == 0
    out, err = capsys.readouterr()
    assert out == "convkit-adapter-my-net\n"
    for command in ("cd convkit-adapter-my-net", "pip install -e", "pytest", "convkit convert my-net -w tiny.pt"):
        assert command in err
    assert files_below(folder / "convkit-adapter-my-net") == FILES


def test_json_and_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convkit(["new", "adapter", "my-net", "--output", "deep/er", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"adapter": "my-net", "path": "deep/er", "files": FILES}
    assert err == ""
    assert files_below(folder / "deep/er") == FILES


@pytest.mark.parametrize("name", ["a", "my-net", "really_long-name-of-a-network9"])
def test_every_placeholder_is_filled_and_the_code_is_clean(name: str, folder: Path) -> None:
    path, files = write_adapter(name)
    identifier = re.sub("-", "_", name)
    assert f"convkit_adapter_{identifier}/__init__.py" in files
    for file in files:
        text = (path / file).read_text()
        assert "$" not in text, f"{file} holds a placeholder"
        if file.endswith(".py"):
            ast.parse(text)
    options = ["--isolated", "--line-length", "120"]
    for command in (["check", "--select", "E,F,W,I,B,UP,RUF", *options], ["format", "--check", *options]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("My Net", "for example my-net."),
        ("2net", "for example net."),
        ("net-", "for example net."),
        ("net.v2", "for example net-v2."),
        ("../net", "for example net."),
        ("", "for example my-net."),
        ("é", "for example my-net."),
    ],
)
def test_name_that_cannot_be_a_module_is_refused(name: str, hint: str, folder: Path) -> None:
    with pytest.raises(SettingError) as caught:
        write_adapter(name)
    assert caught.value.hint.endswith(hint)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["centernet", "graph"], ids=["an adapter", "a plugin"])
def test_name_that_is_taken_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(SettingError, match=f"'{name}' already"):
        write_adapter(name)
    assert not list(folder.iterdir())


def test_exit_code_and_message_of_a_bad_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convkit(["new", "adapter", "My Net"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: 'My Net' cannot be the name of an adapter." in err


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_what_exists_is_never_touched(kind: str, folder: Path) -> None:
    target = folder / "there"
    if kind == "file":
        target.write_text("mine")
    elif kind == "dangling link":
        target.symlink_to(folder / "nowhere")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "manifest.json").write_text("mine")
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(OutputError, match="exists already") as caught:
        write_adapter("my-net", target)
    assert "--overwrite" not in caught.value.hint
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_place_that_cannot_be_written_is_an_output_error(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        write_adapter("my-net", folder / "file" / "new")


def test_error_half_way_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    original = Path.write_text

    def write_text(self: Path, *arguments: object, **options: object) -> int:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(self)
        return original(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(Exception, match="No room to write") as caught:
        write_adapter("my-net")
    monkeypatch.undo()
    assert getattr(caught.value, "exit_code", 0) == 5
    assert len(written) == 3
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_generated_adapter_passes_its_own_tests_and_converts(folder: Path) -> None:
    path, _ = write_adapter("my-net", folder / "source")
    install(Path(sys.executable), path, target=folder / "site")
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    convert = ["convert", "my-net", "--weights", "tiny.pt", "--output", "out", "--json"]
    commands = [["python", "tests/make_weights.py", "tiny.pt"], ["convkit", *convert], ["pytest", "-q"]]
    weights, report, tests = session(sys.executable, path, commands, environment)
    assert weights.strip() == "tiny.pt"
    assert json.loads(report)["proved"]
    assert json.loads(report)["variant"] == "width8"
    summary = tests.splitlines()[-1]
    assert re.fullmatch(r"\d+ passed, 2 skipped in .*", summary), summary  # it has no device sides
