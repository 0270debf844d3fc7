"""Where a checkpoint has its weights: containers, prefixes, averages, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

from convkit.errors import CheckpointError
from convkit.weights import StateDict, find_state_dict

MARKS = ("stem.weight", "block.0.weight")


class Network(nn.Module):
    """A stem, a block and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Linear(2, 3)
            self.block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
            self.head = nn.Linear(3, 1)

    def forward(self, value: Tensor) -> Tensor:
        return self.head(self.block(self.stem(value)))


STATE = Network().state_dict()
AVERAGE = {name: value * 2 for name, value in STATE.items()}


def found(content: Any, marks: tuple[str, ...] = MARKS, entry: str = "") -> StateDict:
    return find_state_dict(content, "w.pth", marks=marks, entry=entry)


def refusal(content: Any, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        found(content, **options)
    assert error.value.hint
    return str(error.value)


def is_state(tensors: Any, state: Any = STATE) -> bool:
    return tensors.keys() == state.keys() and all(
        torch.equal(tensors[name].cpu(), value.cpu()) for name, value in state.items()
    )


def under(*names: str) -> Callable[[Any], Any]:
    def wrap(state: Any) -> Any:
        for name in reversed(names):
            state = {name: state}
        return state

    return wrap


def prefixed(prefix: str, state: Any = STATE) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("place", ["", "state_dict", "model", "model_state_dict"])
def test_the_usual_places_are_taken_without_a_word(place: str) -> None:
    result = found({"epoch": 3, **under(*filter(None, [place]))(STATE)} if place else STATE)
    assert is_state(result.tensors)
    assert (result.place, result.prefix, result.notes) == (place, "", ())


@pytest.mark.parametrize(
    "place", ["net", "network", "params", "ema.module", "model_ema", "checkpoint.state_dict", "state.model", "detector"]
)
@pytest.mark.parametrize("marks", [MARKS, ()])
def test_any_other_place_is_found_and_said(place: str, marks: tuple[str, ...]) -> None:
    result = found({"epoch": 3, **under(*place.split("."))(STATE)}, marks)
    assert is_state(result.tensors)
    assert result.place == place
    assert place in result.notes[-1]


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "module.module.", "model.", "net.", "_forward_module.model.",
     "module._fsdp_wrapped_module.", "model._orig_mod.module."],
)  # fmt: skip
@pytest.mark.parametrize("marks", [MARKS, ()])
def test_prefixes_of_wrappers(prefix: str, marks: tuple[str, ...]) -> None:
    result = found({"state_dict": prefixed(prefix)}, marks)
    assert is_state(result.tensors)
    assert result.notes


def test_with_marks_any_prefix_is_found_and_what_is_beside_it_said() -> None:
    content = {
        "state_dict": {**prefixed("detector.core."), "criterion.weight": torch.ones(2), "n_averaged": torch.ones(1)}
    }
    result = found(content)
    assert is_state(result.tensors)
    assert result.prefix == "detector.core."
    assert any("criterion x1, n_averaged x1" in note for note in result.notes)


def test_a_trunk_is_no_wrapper_around_the_network() -> None:
    content = {"backbone.stem.weight": torch.ones(2), "decoder.up.weight": torch.ones(2)}
    assert found(content).tensors.keys() == content.keys()


def test_parts_that_were_wrapped_alone() -> None:
    names = {"stem.weight": "stem._orig_mod.weight", "block.0.weight": "block._fsdp_wrapped_module.0.weight"}
    assert is_state(found({names.get(name, name): value for name, value in STATE.items()}).tensors)
    names = {name: name.replace("block.", "block.module.") for name in STATE}
    assert is_state(found({names[name]: value for name, value in STATE.items()}).tensors)


def test_what_real_wrappers_write() -> None:
    network = Network()
    averaged = torch.optim.swa_utils.AveragedModel(network)
    for wrapped in (nn.DataParallel(network), averaged, nn.Sequential(network)):
        assert is_state(found(wrapped.state_dict()).tensors)


def test_the_state_of_an_optimiser_is_never_taken_for_weights() -> None:
    moments = {number: {"step": 7, "exp_avg": value} for number, value in enumerate(STATE.values())}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}], "shadow": dict(AVERAGE)}
    for marks in (MARKS, ()):
        assert is_state(found({"optimizer": optimizer, "optimizer_states": [optimizer], "net": STATE}, marks).tensors)
    assert "no entry 'state_dict'; it holds optimizer" in refusal({"optimizer": optimizer})


AVERAGES = {
    "beside the model": {"model": STATE, "model_ema": AVERAGE},
    "timm": {"state_dict": STATE, "state_dict_ema": AVERAGE},
    "RT-DETR": {"model": STATE, "ema": {"module": AVERAGE, "updates": 7}},
    "BasicSR": {"params": STATE, "params_ema": AVERAGE},
    "in the names": {"state_dict": {**prefixed("model."), **prefixed("ema_model.", AVERAGE)}},
    "a teacher": {"state_dict": {**prefixed("student."), **prefixed("teacher.", AVERAGE)}},
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_of_weights_and_their_average_the_weights_are_taken_and_that_is_said(kind: str) -> None:
    content = AVERAGES[kind]
    result = found(content)
    assert is_state(result.tensors)
    (said,) = (note for note in result.notes if "not those under" in note)
    address = said.rpartition("not those under ")[2]
    other = found(content, entry=address)
    assert is_state(other.tensors, AVERAGE)
    assert any("an average of training steps" in note for note in other.notes)


def test_averages_of_mmcv_in_the_same_dictionary_are_left_out() -> None:
    flat = {"ema_" + name.replace(".", "_"): value for name, value in AVERAGE.items()}
    result = found({"state_dict": {**STATE, **flat}})
    assert is_state(result.tensors)
    assert any(f"left out {len(STATE)} entries ema_*" in note for note in result.notes)


def test_several_networks_that_nothing_tells_apart_are_refused() -> None:
    content = {"first": STATE, "second": AVERAGE}
    assert "several networks, under 'first', 'second'" in refusal(content)
    assert is_state(found(content, entry="second").tensors, AVERAGE)
    assert "It has them under first, second" in refusal(content, entry="third")
    assert "several networks" in refusal({**prefixed("a."), **prefixed("b.")})


def test_the_network_with_the_marks_is_taken_from_several() -> None:
    other = {f"layers.{index}.weight": torch.ones(2) for index in range(9)}
    assert is_state(found({"discriminator": other, "generator": STATE}).tensors)


def test_arrays_of_numpy_are_weights_too() -> None:
    result = found({"model": {name: value.numpy() for name, value in STATE.items()}})
    assert is_state(result.tensors)
    assert "an array of <U1 under x" in refusal({"model": {**STATE, "x": np.array(["a"])}})


def test_a_name_with_and_without_a_wrapper() -> None:
    assert "stem.weight twice" in refusal({**STATE, "_orig_mod.stem.weight": STATE["stem.weight"]})
    assert "several networks" in refusal({**STATE, **prefixed("module.")})


def pruned(network: nn.Module) -> None:
    nn.utils.prune.l1_unstructured(network.stem, "weight", 0.5)  # type: ignore[arg-type]


UNFINISHED = {
    "prune.remove": pruned,
    "remove_weight_norm": lambda network: nn.utils.weight_norm(network.head),
    "remove_spectral_norm": lambda network: nn.utils.spectral_norm(network.head),
    "remove_parametrizations": lambda network: nn.utils.parametrizations.weight_norm(network.head),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("cure", UNFINISHED)
def test_weights_that_training_computes_from_others_are_refused_with_the_cure(cure: str) -> None:
    network = Network()
    UNFINISHED[cure](network)
    assert cure in refusal({"state_dict": network.state_dict()})


@pytest.mark.parametrize(
    "content", [None, 7, [STATE], torch.ones(2), {}, {"epoch": 3}, {"state_dict": {}}, {1: torch.ones(2)}]
)
def test_content_without_weights(content: Any) -> None:
    refusal(content)
