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
    assert read_entry(KEY, "cubin") is None
    write_entry(KEY, "cubin", {"log": "a\nb"}, b"code\n\0more")
    assert read_entry(KEY, "cubin") == ({"log": "a\nb"}, b"code\n\0more")
    assert sorted(path.name for path in folder.iterdir()) == [f"{KEY}.cubin", f"{KEY}.json"]
    write_entry(KEY, "cubin", {"log": "c"}, b"other")
    assert read_entry(KEY, "cubin") == ({"log": "c"}, b"other")
    assert read_entry(KEY, "ptx") is None


def test_the_code_lies_there_as_it_is(folder):
    write_entry(KEY, "cubin", {"log": "a"}, b"\x7fELF\0")
    assert (folder / f"{KEY}.cubin").read_bytes() == b"\x7fELF\0"


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("cubin", lambda data: data[:-1]),
        ("cubin", lambda data: data + b"x"),
        ("cubin", lambda data: b""),
        ("json", lambda data: data[:-1]),
        ("json", lambda data: b""),
        ("json", lambda data: b"[]"),
        ("json", lambda data: b"{}"),
        ("json", lambda data: b"\xff"),
    ],
)
def test_a_damaged_entry_is_none(folder, suffix, damage):
    write_entry(KEY, "cubin", {"log": ""}, b"code")
    file = folder / f"{KEY}.{suffix}"
    file.write_bytes(damage(file.read_bytes()))
    assert read_entry(KEY, "cubin") is None


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("CONVKIT_CACHE", str(tmp_path / "file" / "cache"))
    write_entry(KEY, "ptx", {}, b"code")
    assert read_entry(KEY, "ptx") is None


def test_an_entry_that_cannot_be_replaced_costs_nothing(folder):
    (folder / f"{KEY}.ptx" / "inside").mkdir(parents=True)
    write_entry(KEY, "ptx", {}, b"code")
    assert read_entry(KEY, "ptx") is None
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.ptx"]


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
    write_entry("shared", "cubin", {"log": "same"}, b"same" * 50_000)
    assert read_entry("shared", "cubin") == ({"log": "same"}, b"same" * 50_000), "a reader saw a part of an entry"
"""


def test_processes_may_write_the_same_entry_at_once(folder):
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen([sys.executable, "-c", WRITER], cwd=root) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert sorted(path.name for path in folder.iterdir()) == ["shared.cubin", "shared.json"]
