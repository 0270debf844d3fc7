"""What weights files contain: torch files with options beside the tensors, safetensors, and folders of shards."""

from __future__ import annotations

import argparse
import datetime
import json
import pickle
import sys
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import save_safetensors

from convkit import read_weights
from convkit.errors import CheckpointError, EnvironmentProblem

STATE = {
    "stem.weight": torch.arange(24.0).reshape(2, 3, 4),
    "stem.bias": torch.tensor([0.5, -0.5], dtype=torch.bfloat16),
    "count": torch.tensor(7),
}


def assert_same(found: Any, expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_weights(path)
    assert error.value.hint
    return str(error.value)


class TestNamespace:
    """The options of a training script, as DETR and timm save them."""

    @pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
    def test_is_read_as_data(self, tmp_path: Path, modern: bool) -> None:
        options = argparse.Namespace(arch="r18", lr=0.1, heads=["hm"], inner=argparse.Namespace(depth=3))
        path = tmp_path / "w.pth"
        torch.save({"model": STATE, "args": options}, path, _use_new_zipfile_serialization=modern)
        content = read_weights(path)
        assert_same(content["model"], STATE)
        assert isinstance(content["args"], argparse.Namespace)
        assert vars(content["args"]) == {**vars(options), "inner": content["args"].inner}
        assert content["args"].inner.depth == 3

    @pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
    def test_runs_nothing_whatever_its_state_is(self, tmp_path: Path, modern: bool) -> None:
        """The state is set as attributes alone: no setter, no method, no class of the object comes from the file."""

        class Odd(argparse.Namespace):
            def __reduce__(self) -> Any:
                return argparse.Namespace, (), {"__class__": "x", "__setstate__": "y", "__eq__": "z"}

        path = tmp_path / "w.pth"
        torch.save({"args": Odd()}, path, _use_new_zipfile_serialization=modern)
        found = read_weights(path)["args"]
        assert isinstance(found, argparse.Namespace)
        assert vars(found) == {"__class__": "x", "__setstate__": "y", "__eq__": "z"}
        assert callable(type(found).__setstate__)

    @pytest.mark.parametrize("state", [(None, {"__class__": "x"}), 7, ["a"]])
    def test_with_another_state_is_refused(self, tmp_path: Path, state: Any) -> None:
        class Odd(argparse.Namespace):
            def __reduce__(self) -> Any:
                return argparse.Namespace, (), state

        path = tmp_path / "w.pth"
        torch.save({"args": Odd()}, path)
        assert "damaged" in refusal(path)

    def test_with_something_else_inside_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "w.pth"
        torch.save({"args": argparse.Namespace(model=torch.nn.ReLU())}, path)
        said = refusal(path)
        assert "torch.nn.modules.activation.ReLU" in said
        assert "Namespace" not in said

    def test_one_called_with_arguments_is_refused(self, tmp_path: Path) -> None:
        class Odd:
            def __reduce__(self) -> Any:
                return argparse.Namespace, ("positional",)

        path = tmp_path / "w.pth"
        torch.save({"args": Odd()}, path)
        refusal(path)


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.bool_(True), np.str_("größe"), np.bytes_(b"x"), np.complex64(1j)]
)
@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
def test_numpy_scalars_of_every_kind(tmp_path: Path, value: Any, modern: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save({"best": value}, path, _use_new_zipfile_serialization=modern)
    found = read_weights(path)["best"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "value", [np.arange(3.0), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(["a", "bc"]), np.zeros((0, 3))]
)
def test_arrays_are_read_as_data(tmp_path: Path, value: np.ndarray) -> None:
    path = tmp_path / "w.pth"
    torch.save({"losses": value}, path)
    found = read_weights(path)["losses"]
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert (found == value).all()


@pytest.mark.parametrize("value", [np.array([{"x": 1}], dtype=object), np.zeros(2, [("x", "f4")])], ids=["O", "V"])
def test_arrays_of_objects_are_refused(tmp_path: Path, value: np.ndarray) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": value}, path)
    assert "array of Python objects or a structured one" in refusal(path)


@pytest.mark.parametrize("state", [(1, (1 << 40,), np.dtype("f8"), False, b"12345678"), (1, (1,), "f8", False, b"")])
def test_an_array_of_other_bytes_than_its_shape_says(tmp_path: Path, state: Any) -> None:
    class Odd:
        def __reduce__(self) -> Any:
            function, arguments, _ = np.zeros(1).__reduce__()
            return function, arguments, state

    path = tmp_path / "w.pth"
    torch.save({"a": Odd()}, path)
    assert "damaged" in refusal(path)


def beside(module: str, name: str, base: type, monkeypatch: pytest.MonkeyPatch) -> type:
    """Return a class of another package, which is installed for the test that saves an object of it."""
    made = type(name, (base,), {"__module__": module, "__qualname__": name})
    for part in (module.rsplit(".", depth)[0] for depth in range(module.count("."), -1, -1)):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    setattr(sys.modules[module], name, made)
    return made


DICTIONARIES = (
    ("easydict", "EasyDict"),
    ("yacs.config", "CfgNode"),
    ("mmengine.config.config", "ConfigDict"),
    ("lightning_fabric.utilities.data", "AttributeDict"),
)


@pytest.mark.parametrize(("module", "name"), DICTIONARIES)
@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
def test_dictionaries_of_other_packages_become_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, modern: bool
) -> None:
    kind = beside(module, name, dict, monkeypatch)
    path = tmp_path / "w.pth"
    torch.save({"model": STATE, "cfg": kind(lr=0.1)}, path, _use_new_zipfile_serialization=modern)
    monkeypatch.undo()
    content = read_weights(path)
    assert_same(content["model"], STATE)
    assert dict(content["cfg"]) == {"lr": 0.1}
    assert type(content["cfg"]).__module__ == "collections"


VALUES = (
    Path("/data/run"),
    datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    datetime.timedelta(seconds=3),
    types.SimpleNamespace(lr=0.1),
    frozenset({1, 2}),
    slice(1, 2),
    range(3),
    uuid.UUID(int=7),
    torch.__version__,
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_beside_the_weights_do_not_stop_a_file_and_have_no_behaviour(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": STATE, "beside": value}, path)
    content = read_weights(path)
    assert_same(content["model"], STATE)
    assert type(content["beside"]).__module__.startswith("convkit.")


def test_one_object_that_is_no_data_is_refused_among_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": STATE, "when": datetime.date(2020, 1, 2), "hook": print, "path": Path("x")}, path)
    said = refusal(path)
    assert "builtins.print" in said
    assert "datetime" not in said
    assert "pathlib" not in said


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
def test_a_whole_module_is_refused_with_what_to_do(tmp_path: Path, modern: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Sequential(torch.nn.Linear(1, 1)), path, _use_new_zipfile_serialization=modern)
    said = refusal(path)
    assert "torch.nn.modules.container.Sequential" in said
    assert "torch.save(model.state_dict()" in said


class TestSafetensors:
    def test_tensors_by_name(self, tmp_path: Path) -> None:
        save_safetensors(STATE, tmp_path / "model.safetensors", metadata={"format": "pt"})
        found = read_weights(tmp_path / "model.safetensors")
        assert_same({name: found[name] for name in STATE}, STATE)
        assert len(found) == len(STATE)

    @pytest.mark.parametrize("start", [b"\x80", b"\x1f\x8b", b"PK", b"Rar!"[:2]])
    def test_its_first_bytes_are_a_length_that_may_look_like_another_format(self, tmp_path: Path, start: bytes) -> None:
        pytest.importorskip("safetensors")
        length = int.from_bytes(start, "little")
        header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(length)
        path = tmp_path / "model.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + np.float32([1, 2]).tobytes())
        assert path.read_bytes().startswith(start)
        assert_same(read_weights(path), {"a": torch.tensor([1.0, 2.0])})

    @pytest.mark.parametrize("share", [0.5, 0.99])
    def test_a_file_that_is_cut_off(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "model.safetensors"
        save_safetensors(STATE, path)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        said = refusal(path)
        assert "damaged or cut off" in said or "not a PyTorch checkpoint" in said

    def test_the_missing_package_is_named_with_the_command_that_installs_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_safetensors(STATE, tmp_path / "model.safetensors")
        for module in ("safetensors", "safetensors.torch"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(EnvironmentProblem) as error:
            read_weights(tmp_path / "model.safetensors")
        assert error.value.hint == 'pip install "convkit[safetensors]"'
        assert "model.safetensors" in error.value.message


def shards(
    folder: Path, files: dict[str, list[str]], save: Any = save_safetensors, index: str = "model.safetensors"
) -> None:
    for file, names in files.items():
        save({name: STATE[name] for name in names}, folder / file)
    table = {name: file for name in STATE for file, names in files.items() if name in names}
    (folder / f"{index}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))


TWO = {
    "model-00001-of-00002.safetensors": ["count", "stem.weight"],
    "model-00002-of-00002.safetensors": ["stem.bias"],
}


class TestFolder:
    def test_one_safetensors_file_is_read(self, tmp_path: Path) -> None:
        save_safetensors({"a": STATE["count"]}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "._model.safetensors").write_bytes(b"hidden file of macOS")
        assert_same(read_weights(tmp_path), {"a": STATE["count"]})

    def test_shards_are_read_whole(self, tmp_path: Path) -> None:
        shards(tmp_path, TWO)
        assert_same(read_weights(str(tmp_path)), STATE)

    def test_shards_of_torch_save_too(self, tmp_path: Path) -> None:
        files = {name.replace("safetensors", "bin"): tensors for name, tensors in TWO.items()}
        shards(tmp_path, files, torch.save, "pytorch_model.bin")
        assert_same(read_weights(tmp_path), STATE)

    def test_code_in_a_shard_is_not_run(self, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> Any:
                return print, ("run",)

        shards(tmp_path, {"a.bin": list(STATE)}, torch.save, "pytorch_model.bin")
        torch.save({**STATE, "x": Payload()}, tmp_path / "a.bin")
        assert "print" in refusal(tmp_path)

    @pytest.mark.parametrize("name", ["model.safetensors.index.json", *TWO])
    def test_a_part_of_them_names_the_folder_to_give(self, tmp_path: Path, name: str) -> None:
        shards(tmp_path, TWO)
        assert "Give their folder" in refusal(tmp_path / name)

    def test_a_shard_that_lacks_a_tensor(self, tmp_path: Path) -> None:
        shards(tmp_path, TWO)
        save_safetensors({"stem.weight": STATE["stem.weight"]}, tmp_path / next(iter(TWO)))
        assert "lacks count" in refusal(tmp_path)

    def test_a_shard_that_is_no_table(self, tmp_path: Path) -> None:
        shards(tmp_path, {"a.bin": list(STATE)}, torch.save, "pytorch_model.bin")
        torch.save(torch.zeros(3), tmp_path / "a.bin")
        assert "lacks stem.weight, stem.bias, count" in refusal(tmp_path)

    @pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "gone.safetensors", "", ".", "sub"])
    def test_a_shard_must_be_a_file_of_the_folder(self, tmp_path: Path, file: str) -> None:
        folder = tmp_path / "model"
        (folder / "sub").mkdir(parents=True)
        save_safetensors(STATE, tmp_path / "outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"count": file}}))
        assert "not a file of the same folder" in refusal(folder)

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", "7", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "[" * 10**5, '"\\ud800"']
    )
    def test_an_index_that_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "model.safetensors.index.json").write_text(text)
        assert "damaged or cut off" in refusal(tmp_path)

    def test_one_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "iterdir", refuse)
        assert "cannot be read: Permission denied" in refusal(tmp_path)

    def test_a_path_that_no_system_takes(self, tmp_path: Path) -> None:
        assert "cannot be read" in refusal(tmp_path / ("x" * 5000))

    def test_others_name_the_files_that_could_be_given(self, tmp_path: Path) -> None:
        assert "is a folder with no safetensors files" in refusal(tmp_path)
        (tmp_path / "epoch_1.pth").write_bytes(b"x")
        assert "epoch_1.pth" in refusal(tmp_path)
        for name in ("a", "b"):
            save_safetensors(STATE, tmp_path / f"{name}.safetensors")
        assert "several safetensors files" in refusal(tmp_path)
        assert "a.safetensors, b.safetensors" in refusal(tmp_path)


def test_the_pickles_of_these_tests_would_run_code_if_they_were_unpickled() -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return int, ("42",)

    assert pickle.loads(pickle.dumps(Payload())) == 42
