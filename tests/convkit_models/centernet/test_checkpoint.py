from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import make_checkpoint, make_network, save_safetensors

from convkit.errors import CheckpointError
from convkit_models.centernet import convkit_adapters
from convkit_models.centernet._checkpoint import read_checkpoint

State = dict[str, torch.Tensor]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def state() -> State:
    return make_network("resdcn_18", width=0.05).state_dict()


def saved(path: Path, content: Any, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("legacy", [False, True])
def test_an_official_file(tmp_path: Path, state: State, legacy: bool) -> None:
    path = make_checkpoint(tmp_path / "w.pth", width=0.05, legacy=legacy, optimizer=True)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state, state)
    assert checkpoint.epoch == 140
    assert checkpoint.serialisation == ("legacy" if legacy else "zip")
    assert checkpoint.notes == ()


def test_the_weights_do_not_hang_on_the_file(tmp_path: Path, state: State) -> None:
    path = make_checkpoint(tmp_path / "w.pth", width=0.05)
    checkpoint = read_checkpoint(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert_same(checkpoint.state, state)


@pytest.mark.parametrize("wrap", ["state_dict", "model", "model_state_dict", None])
def test_where_the_weights_may_lie(tmp_path: Path, state: State, wrap: str | None) -> None:
    path = saved(tmp_path / "w.pth", {wrap: OrderedDict(state)} if wrap else state)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state, state)
    assert checkpoint.epoch is None


@pytest.mark.parametrize("legacy", [False, True])
def test_the_prefix_of_data_parallel(tmp_path: Path, state: State, legacy: bool) -> None:
    checkpoint = read_checkpoint(make_checkpoint(tmp_path / "w.pth", width=0.05, prefix="module.", legacy=legacy))
    assert_same(checkpoint.state, state)
    assert checkpoint.notes == (f"took the prefix 'module.' off {len(state)} entries",)


def test_a_name_with_and_without_the_prefix(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path / "w.pth", {**state, "module.conv1.weight": state["conv1.weight"]})
    with pytest.raises(CheckpointError, match=r"conv1\.weight twice"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "place", ["net", "model_ema", "ema.module", "params"], ids=lambda place: place.replace(".", " of ")
)
def test_weights_at_another_place_are_found_and_said(tmp_path: Path, state: State, place: str) -> None:
    content: Any = state
    for name in reversed(place.split(".")):
        content = {name: content}
    checkpoint = read_checkpoint(saved(tmp_path / "w.pth", {"epoch": 3, **content}))
    assert_same(checkpoint.state, state)
    assert place in checkpoint.notes[-1]


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "module.module.", "detector.core."])
def test_any_prefix_around_the_whole_network(tmp_path: Path, state: State, prefix: str) -> None:
    checkpoint = read_checkpoint(make_checkpoint(tmp_path / "w.pth", width=0.05, prefix=prefix))
    assert_same(checkpoint.state, state)


def test_a_lightning_checkpoint(tmp_path: Path, state: State) -> None:
    content = {
        "pytorch-lightning_version": "2.1.0",
        "epoch": 9,
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"EMA": {"decay": 0.99}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
        "state_dict": {**{f"model.{name}": value for name, value in state.items()}, "loss.weight": torch.ones(3)},
    }
    checkpoint = read_checkpoint(saved(tmp_path / "w.ckpt", content))
    assert_same(checkpoint.state, state)
    assert checkpoint.epoch == 9
    assert "left out 1 entries without that prefix: loss x1" in checkpoint.notes


def test_an_average_is_taken_only_where_it_is_asked_for(tmp_path: Path, state: State) -> None:
    average = {name: value * 2 for name, value in state.items()}
    path = saved(tmp_path / "w.pth", {"state_dict": state, "state_dict_ema": average})
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state, state)
    assert "took the weights under state_dict, not those under state_dict_ema" in checkpoint.notes
    assert_same(read_checkpoint(path, "state_dict_ema").state, average)
    with pytest.raises(CheckpointError, match="no weights under 'ema'"):
        read_checkpoint(path, "ema")


def test_negative_variances_are_named(tmp_path: Path, state: State) -> None:
    damaged = {**state, "layer1.0.bn1.running_var": -state["layer1.0.bn1.running_var"]}
    with pytest.raises(CheckpointError, match=r"negative variances of a BatchNorm: layer1\.0\.bn1\.running_var\."):
        read_checkpoint(saved(tmp_path / "w.pth", damaged))


@pytest.mark.parametrize("metadata", [False, True])
def test_files_without_batch_counters(tmp_path: Path, state: State, metadata: bool) -> None:
    old = OrderedDict((name, value) for name, value in state.items() if "num_batches_tracked" not in name)
    if metadata:
        old._metadata = OrderedDict({"bn1": {"version": 2}})  # type: ignore[attr-defined]
    checkpoint = read_checkpoint(saved(tmp_path / "w.pth", {"epoch": 1, "state_dict": old}, legacy=True))
    assert checkpoint.state.keys() == state.keys()
    assert checkpoint.state["bn1.num_batches_tracked"].dtype == torch.int64
    assert checkpoint.notes == (f"added {len(state) - len(old)} entries num_batches_tracked, which older files lack",)


def test_the_unused_classifier_of_the_pretrained_trunk(tmp_path: Path, state: State) -> None:
    extra = {"base.fc.weight": torch.zeros(1000, 512, 1, 1), "base.fc.bias": torch.zeros(1000)}
    checkpoint = read_checkpoint(saved(tmp_path / "w.pth", {"epoch": 1, "state_dict": {**state, **extra}}))
    assert_same(checkpoint.state, state)
    assert checkpoint.notes == ("left out 2 entries base.fc.*, which no output depends on",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    lowered = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    checkpoint = read_checkpoint(saved(tmp_path / "w.pth", {"state_dict": lowered}))
    assert_same(checkpoint.state, {n: v.float() if v.is_floating_point() else v for n, v in lowered.items()})
    count = sum(value.is_floating_point() for value in state.values())
    assert checkpoint.notes == (f"converted {count} entries from {str(dtype)[6:]} to float32",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("old_name", [False, True])
def test_numpy_scalars_beside_the_weights(tmp_path: Path, state: State, legacy: bool, old_name: bool) -> None:
    """Training loops store the epoch and the best score as NumPy gives them, under NumPy's name of the time."""
    content = {"epoch": np.int64(7), "best": np.float64(0.25), "lr": np.float32(0.5), "state_dict": state}
    path = saved(tmp_path / "w.pth", content, legacy=legacy)
    if old_name and legacy:
        data = path.read_bytes()
        assert b"numpy._core.multiarray" in data or b"numpy.core.multiarray" in data
        path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    checkpoint = read_checkpoint(path)
    assert checkpoint.epoch == 7
    assert_same(checkpoint.state, state)


def set_to(value: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        content["state_dict"]["layer1.0.conv1.weight"].view(-1)[:3] = value

    return edit


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    path = make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, edit=set_to(value))
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights: layer1\.0\.conv1\.weight \(3 of 81 values\)"):
        read_checkpoint(path)


def test_weights_beyond_float32_are_not_finite_either(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"state_dict": {"a": torch.tensor([1e300], dtype=torch.float64)}})
    with pytest.raises(CheckpointError, match=r"infinite weights: a \(1 of 1"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3, dtype=torch.int8), r"b \(int8 \(3,\)\)"),
        (torch.zeros(3, dtype=torch.complex64), r"b \(complex64 \(3,\)\)"),
        (torch.zeros(0, 4), r"b \(float32 \(0, 4\)\)"),
        (torch.eye(3).to_sparse(), r"b \(sparse\)"),
        (torch.zeros(1).expand(10**6, 10**6), r"b \(float32 \(1000000, 1000000\)\)"),
        (torch.empty(3, device="meta"), r"b \(float32 \(3,\)\)"),
    ],
    ids=["int8", "complex", "empty", "sparse", "a terabyte of one value", "meta"],
)
def test_tensors_that_cannot_be_weights(tmp_path: Path, value: torch.Tensor, said: str) -> None:
    path = saved(tmp_path / "w.pth", {"state_dict": {"a": torch.zeros(1), "b": value}})
    with pytest.raises(CheckpointError, match=f"cannot be weights of this network: {said}"):
        read_checkpoint(path)


def test_entries_that_are_no_tensors(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path / "w.pth", {"state_dict": {**state, "note": "best", "steps": [1]}})
    with pytest.raises(CheckpointError, match=r"not tensors: note \(str\), steps \(list\)"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(1)], "holds a list, not a checkpoint"),
        (torch.zeros(1), "holds a Tensor, not a checkpoint"),
        ({"epoch": 3, "loss": 0.5}, "no entry 'state_dict'; it holds epoch, loss"),
        ({"state_dict": {}}, "no entry 'state_dict'"),
        ({}, "it holds nothing"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(saved(tmp_path / "w.pth", content))


def test_a_folder_of_shards(tmp_path: Path, state: State) -> None:
    names = list(state)
    half = len(names) // 2
    table = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_safetensors({name: state[name].contiguous() for name in part}, tmp_path / file)
        table.update(dict.fromkeys(part, file))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert_same(read_checkpoint(tmp_path).state, state)
    assert [adapter.weights_folder for adapter in convkit_adapters()] == [True]
