"""What stands where weights should: each wrong file is named for what it is, and none of it is run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.centernet import read_checkpoint
from support.checkpoints import make_checkpoint, save_safetensors

from convkit.errors import CheckpointError
from convkit.weights import FOLDER, LEGACY, SAFETENSORS, ZIP, identify


def message(path: Path) -> str:
    """Return what reading the file says, message and hint."""
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert error.value.message
    assert error.value.hint
    assert "weights_only" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("legacy", "kind"), [(False, ZIP), (True, LEGACY)])
def test_both_formats_of_torch_save(tmp_path: Path, legacy: bool, kind: str) -> None:
    assert identify(make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, legacy=legacy)) == kind


def test_safetensors_and_folders(tmp_path: Path) -> None:
    save_safetensors({"a": torch.ones(1)}, tmp_path / "w.bin")
    assert identify(tmp_path / "w.bin") == SAFETENSORS
    assert identify(tmp_path) == FOLDER


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "w.pth"
    for modern, kind in ((True, ZIP), (False, LEGACY)):
        torch.save({"a": torch.ones(1)}, path, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
        assert identify(path) == kind


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", "is a web page"),
        (b"\n  <html lang='en'>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 57\n", "Git LFS pointer"),
        (b"\x1f\x8b\x08\x00rest", "compressed with gzip"),
        (b"\x89PNG\r\n\x1a\n", "PNG image"),
        (b"just some text", "not a PyTorch checkpoint: it starts with b'just som'"),
        ((30).to_bytes(8, "little") + b'{"conv1.weight":{"dtype":"F32"}}', "safetensors cannot read it"),
        (b"PK\x03\x04" + bytes(200), "damaged or cut off"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    if "safetensors" in said:
        pytest.importorskip("safetensors")
    assert said in message(path)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "model_best.pth").write_bytes(b"x")
    said = message(tmp_path / "model_bset.pth")
    assert "There is no file" in said
    assert "model_best.pth" in said


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "There is no file" in message(tmp_path / "nowhere" / "model.pth")


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in message(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a regular file" in message(tmp_path / "pipe.pth")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in message(path)


def test_a_tar_archive(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    assert "tar archive" in message(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "download.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("models/ctdet.pth", b"x")
    assert "zip archive but not a PyTorch checkpoint; it contains models/ctdet.pth" in message(path)


def test_a_pickle_that_is_compressed_is_not_unpacked(tmp_path: Path) -> None:
    """A megabyte may unpack to any amount of memory; torch.save compresses nothing."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + b"N0" * (1 << 24) + b".")
        archive.writestr("archive/version", "3\n")
    tracemalloc.start()
    assert "compressed inside (archive/data.pkl" in message(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_long_name_is_shortened_in_the_message(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {"a" * 10**6: 1}}, path)
    assert len(message(path)) < 1000


def test_a_torchscript_archive(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("script/data.pkl", "script/constants.pkl", "script/code/__torch__.py"):
            archive.writestr(name, b"x")
    assert "TorchScript archive" in message(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.7, 0.999])
def test_a_file_cut_off_anywhere(tmp_path: Path, legacy: bool, share: float) -> None:
    path = make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, legacy=legacy)
    data = path.read_bytes()
    path.write_bytes(data[: max(16, int(share * len(data)))])
    said = message(path)
    assert "damaged or cut off" in said or "plain pickle" in said
    assert "again" in said or share == 0.001


@pytest.fixture(scope="module", params=["zip", "legacy", "safetensors"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("small") / f"{request.param}.pth"
    state = {"conv1.weight": torch.randn(2, 3, 7, 7), "bn1.running_var": torch.ones(2)}
    if request.param == "safetensors":
        save_safetensors(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state}, path, _use_new_zipfile_serialization=request.param == "zip")
    return path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_give_weights_or_one_clear_error(small: Path, places: list[tuple[float, int]]) -> None:
    data = bytearray(small.read_bytes())
    for place, value in places:
        data[int(place * len(data))] = value
    path = small.with_suffix(".bad")
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):  # anything else that is raised fails the test
        assert read_checkpoint(path).state


class Payload:
    """Unpickling this runs a command that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


class TestCode:
    """Files that would run code are refused, and the code is named."""

    def write(self, path: Path, content: Any, how: str) -> Path:
        if how == "pickle":
            path.write_bytes(pickle.dumps(content))
        elif how == "old pickle":
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
        return path

    @pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "old pickle"])
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_is_not_run(self, tmp_path: Path, how: str, wrapped: bool) -> None:
        trace = tmp_path / "trace"
        content: Any = Payload(trace)
        if wrapped:
            content = {"epoch": 1, "state_dict": {"conv1.weight": torch.zeros(1)}, "extra": content}
        path = self.write(tmp_path / "evil.pth", content, how)
        said = message(path)
        assert f"{os.system.__module__}.system" in said
        assert not trace.exists()
        if not wrapped:
            pickle.loads(pickle.dumps(content))
            assert trace.exists(), "the payload is harmless, so the test proves nothing"

    @pytest.mark.parametrize("how", ["legacy", "pickle"])
    def test_is_named_even_where_the_file_is_cut_off(self, tmp_path: Path, how: str) -> None:
        path = self.write(tmp_path / "evil.pth", [Payload(tmp_path / "trace"), "x" * 5000], how)
        path.write_bytes(path.read_bytes()[:-2500])
        assert f"{os.system.__module__}.system" in message(path)

    @pytest.mark.parametrize("how", ["zip", "legacy"])
    def test_a_pickled_module(self, tmp_path: Path, how: str) -> None:
        path = self.write(tmp_path / "module.pth", torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), how)
        said = message(path)
        assert "torch.nn.modules.container.Sequential" in said
        assert "torch.nn.modules.conv.Conv2d" in said
        assert "torch._utils" not in said

    def test_a_plain_pickle_of_plain_values(self, tmp_path: Path) -> None:
        assert "plain pickle" in message(self.write(tmp_path / "w.pkl", {"a": [1, 2]}, "pickle"))
