from __future__ import annotations

import pytest
import torch
from support.checkpoints import make_network

from convkit.doctor import search
from convkit_models.centernet import convkit_known_errors


def cause(text: str) -> str:
    found = search(text, convkit_known_errors())
    assert len(found) == 1, [error.pattern for error, _ in found]
    assert found[0][0].cure
    return found[0][0].cause


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Skip loading parameter hm.2.weight, required shapetorch.Size([80, 64, 1, 1])", "random values"),
        ("No param deconv_layers.0.weight.", "random values"),
        ("RuntimeError: shape '[-1, 164, 16384]' is invalid for input of size 1049600", "80 classes"),
        ("ModuleNotFoundError: No module named 'external.nms'", "suppressing overlapping boxes"),
        ("TypeError: export() got an unexpected keyword argument 'enable_onnx_checker'", "PyTorch 1.x"),
    ],
)
def test_known_errors(text: str, said: str) -> None:
    assert said in cause(text)


def test_what_torch_says_of_another_class_count() -> None:
    network = make_network("res_18", {"hm": 3, "wh": 2}, width=0.05)
    with pytest.raises(RuntimeError) as error:
        network.load_state_dict(make_network("res_18", {"hm": 4, "wh": 2}, width=0.05).state_dict())
    assert "class count" in cause(str(error.value))


def test_what_torch_says_of_the_tutorials_reshape() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.zeros(1, 44, 96, 96).reshape(-1, 164, 128 * 128)
    assert "80 classes" in cause(str(error.value))


def test_unrelated_text_is_left_alone() -> None:
    assert search("RuntimeError: CUDA out of memory", convkit_known_errors()) == []
