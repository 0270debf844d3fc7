"""The cache of compiled kernels: kept, shared between processes, and never in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from convkit.cuda import cache_folder
from convkit.cuda._cache import cache_key, read_entry, write_entry

KEY = "k" * 64


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "cache"
    monkeypatch.setenv("CONVKIT_CACHE", str(path))
    return path


def test_an_entry_comes_back(folder):
    assert read_entry(KEY) is None
    write_entry(KEY, {"log": "a\nb"}, b"code\n\0more")
    assert read_entry(KEY) == ({"log": "a\nb"}, b"code\n\0more")
    assert [path.name for path in folder.iterdir()] == [KEY]
    write_entry(KEY, {"log": "c"}, b"other")
    assert read_entry(KEY) == ({"log": "c"}, b"other")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"\n{}\n",
        lambda data: b"old" + data[3:],
        lambda data: data.replace(b"log", b"fog"),
    ],
)
def test_a_damaged_entry_is_none(folder, damage):
    write_entry(KEY, {"log": ""}, b"code")
    (folder / KEY).write_bytes(damage((folder / KEY).read_bytes()))
    assert read_entry(KEY) is None


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "file" / "cache"))
    write_entry(KEY, {}, b"code")
    assert read_entry(KEY) is None


def test_an_entry_that_cannot_be_replaced_costs_nothing(folder):
    (folder / KEY / "inside").mkdir(parents=True)
    write_entry(KEY, {}, b"code")
    assert read_entry(KEY) is None
    assert [path.name for path in folder.iterdir()] == [KEY]


def test_keys_tell_everything_apart():
    parts = {"text": "a", "options": ("b",), "kind": "ptx"}
    others = [
        {**parts, "text": "b"},
        {**parts, "options": ("b", "")},
        {**parts, "options": ()},
        {**parts, "kind": "cubin"},
    ]
    keys = [cache_key(**each) for each in (parts, *others)]
    assert len(set(keys)) == 5
    assert keys[0] == cache_key(**parts)


def test_folders(monkeypatch, tmp_path):
    if sys.platform != "linux":
        pytest.skip("other systems have other folders")
    monkeypatch.delenv("CONVKIT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "convkit" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "convkit" / "kernels"
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


WRITER = """
from convkit.cuda._cache import read_entry, write_entry
for turn in range(300):
    write_entry("shared", {"turn": turn}, bytes([turn % 251]) * 50_000)
    found = read_entry("shared")
    assert found is not None, "an onlooker saw a part of an entry"
    assert len(found[1]) == 50_000 and len(set(found[1])) == 1
"""


def test_processes_may_write_at_once(folder):
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen([sys.executable, "-c", WRITER], cwd=root) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert [path.name for path in folder.iterdir()] == ["shared"]
