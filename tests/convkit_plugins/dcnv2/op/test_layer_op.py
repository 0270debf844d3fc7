"""The whole layer in one call: on the CPU, the same as its parts one after another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.deform_host import Inputs, distance, inputs
from torch import Tensor

from convkit_plugins.dcnv2 import DCN, deform_conv2d
from convkit_plugins.dcnv2.cuda import Layer
from convkit_plugins.dcnv2.op import dcnv2, split_offset_mask

LAYERS = {
    "usual": Layer(5, (3, 3), (1, 1), (1, 1)),
    "groups": Layer(3, (3, 3), (2, 2), (1, 1), groups=2),
    "unequal": Layer(4, (2, 3), (1, 2), (0, 2), (2, 1), 2),
    "one tap": Layer(1, (1, 1)),
}


def given(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> Inputs:
    return inputs(LAYERS[name], dtype, 4, (6, 7), batch=2, **options)


def call(data: Inputs, relu: bool = False) -> Tensor:
    return dcnv2(data.x, data.raw, data.weight, data.bias, *data.settings, relu)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_definition(name: str, relu: bool) -> None:
    data = given(name)
    np.testing.assert_allclose(call(data, relu).numpy(), data.definition(relu=relu), rtol=0, atol=1e-13)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_parts(name: str, dtype: torch.dtype, relu: bool) -> None:
    data = given(name, dtype, last=False, raw_last=False)
    offset, mask = split_offset_mask(data.raw)
    expected = deform_conv2d(data.x, data.weight, offset, data.bias, mask, *data.settings)
    assert torch.equal(call(data, relu), expected.relu() if relu else expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_half_types_are_computed_in_float32_and_rounded_once(name: str, dtype: torch.dtype) -> None:
    """The mask, too: as a step of its own, the sigmoid would be rounded."""
    data = given(name, dtype)
    wide = Inputs(data.layer, *(t.float() for t in (data.x, data.raw, data.weight, data.bias)))
    result = call(data)
    assert result.dtype == dtype
    assert torch.equal(result, call(wide).to(dtype))


def test_not_a_number_is_kept_by_relu() -> None:
    data = given("usual", torch.float32)
    data.bias[2] = torch.nan
    assert call(data, relu=True).isnan()[:, 2].all()


@pytest.mark.parametrize("last", [False, True])
def test_the_result_is_contiguous_however_the_arguments_lie(last: bool) -> None:
    data, other = given("usual", last=last), given("usual", raw_last=False)
    result = call(data)
    assert result.is_contiguous()
    torch.testing.assert_close(result, call(replace(other, weight=other.weight.mT.contiguous().mT)))


def test_no_images() -> None:
    data = given("groups")
    tensors = [t[:0].requires_grad_() for t in (data.x, data.raw)]
    weight = data.weight.requires_grad_()
    result = dcnv2(*tensors, weight, data.bias, *data.settings)
    assert result.shape == (0, 3, 3, 4)
    result.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def smooth(name: str) -> list[Tensor]:
    """Arguments whose positions are away from where the derivative jumps."""
    data = given(name, strange=())
    offset = data.raw[:, : data.offset.shape[1]]
    offset.copy_(offset.floor() + 0.2 + 0.6 * torch.rand(offset.shape, dtype=torch.float64))
    return [t.detach().requires_grad_() for t in (data.x, data.raw, data.weight, data.bias)]


@pytest.mark.parametrize(("name", "relu"), [("unequal", True), ("one tap", False)])
def test_gradient_equals_numerical_derivatives(name: str, relu: bool) -> None:
    torch.manual_seed(0)
    settings = Inputs(LAYERS[name], *smooth(name)).settings
    assert torch.autograd.gradcheck(lambda *t: dcnv2(*t, *settings, relu), smooth(name))


def test_gradient_of_some_arguments_only() -> None:
    everything, settings = smooth("groups"), Inputs(LAYERS["groups"], *smooth("groups")).settings
    expected = torch.autograd.grad(dcnv2(*everything, *settings, True).sin().sum(), everything)
    for chosen in range(4):
        arguments = [t.detach().requires_grad_(i == chosen) for i, t in enumerate(everything)]
        dcnv2(*arguments, *settings, True).sin().sum().backward()
        torch.testing.assert_close(arguments[chosen].grad, expected[chosen], rtol=1e-12, atol=1e-12)
        assert all(t.grad is None for i, t in enumerate(arguments) if i != chosen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_half_types_come_from_float32(dtype: torch.dtype) -> None:
    data = given("usual", dtype, strange=())
    leaves = [t.detach().requires_grad_() for t in (data.x, data.raw, data.weight, data.bias)]
    wide = [t.detach().float().requires_grad_() for t in leaves]
    dcnv2(*leaves, *data.settings).sum().backward()
    dcnv2(*wide, *data.settings).sum().backward()
    for leaf, other in zip(leaves, wide, strict=True):
        assert leaf.grad is not None
        assert other.grad is not None
        assert leaf.grad.dtype == dtype
        torch.testing.assert_close(leaf.grad, other.grad.to(dtype))


def test_autocast_on_the_cpu_computes_in_float32() -> None:
    data = given("usual", torch.float32)
    mixed = replace(data, x=data.x.bfloat16(), weight=data.weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        result = call(mixed)
    assert torch.equal(result, call(replace(data, x=mixed.x.float(), weight=mixed.weight.float())))


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_opcheck(training: bool) -> None:
    data = given("one tap", torch.float32, strange=())
    tensors = (data.x, data.weight, data.offset.clone(), data.bias, data.mask.clone())
    arguments = [t.requires_grad_(training) for t in tensors]
    torch.library.opcheck(torch.ops.convkit.deform_conv2d.default, (*arguments, *data.settings, True, True))


def test_compiles_without_graph_breaks() -> None:
    arguments, settings = smooth("groups"), Inputs(LAYERS["groups"], *smooth("groups")).settings
    torch.manual_seed(0)

    def loss(*t: Tensor) -> Tensor:
        return dcnv2(*t, *settings, True).sin().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(*arguments), arguments)
    for got, wanted in zip(torch.autograd.grad(compiled(*arguments), arguments), expected, strict=True):
        torch.testing.assert_close(got, wanted)


SHAPES = {"x": (2, 4, 6, 7), "raw": (2, 27, 6, 7), "weight": (3, 4, 3, 3), "bias": (3,)}
BAD: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any], str]] = {
    "raw that three do not divide": ({"raw": (2, 28, 6, 7)}, {}, r"raw \[N, 3 \* G \* kh \* kw, oh, ow\]; got \[2, 28"),
    "raw of three axes": ({"raw": (27, 6, 7)}, {}, r"dcnv2 needs raw"),
    "raw of fewer taps": ({"raw": (2, 24, 6, 7)}, {}, r"offset of shape \[2, 18, 6, 7\].*got \[2, 16, 6, 7\]"),
    "raw of another size": ({"raw": (2, 27, 5, 7)}, {}, r"offset of shape \[2, 18, 6, 7\]"),
    "raw of another batch": ({"raw": (1, 27, 6, 7)}, {}, r"offset of shape"),
    "weight of other channels": ({"weight": (3, 5, 3, 3)}, {}, r"weight of shape \[3, 4, 3, 3\]"),
    "bias of other filters": ({"bias": (4,)}, {}, r"bias of shape \[3\]"),
    "x of three axes": ({"x": (4, 6, 7)}, {}, r"x \[N, C, H, W\]"),
    "stride zero": ({}, {"stride": 0}, "at least 1 as stride"),
    "groups that do not divide": ({}, {"deformable_groups": 3}, "divide 4 channels into 3"),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(case: str, device: str) -> None:
    shapes, changed, message = BAD[case]
    arguments = {name: torch.zeros(shape, device=device) for name, shape in (SHAPES | shapes).items()}
    with pytest.raises(ValueError, match=message):
        dcnv2(**arguments, **({"padding": 1} | changed))


@pytest.mark.parametrize("name", ["raw", "weight", "bias"])
def test_dtypes_must_be_equal(name: str) -> None:
    arguments = {key: torch.zeros(shape) for key, shape in SHAPES.items()}
    arguments[name] = arguments[name].half()
    with pytest.raises(ValueError, match="one dtype for all tensors"):
        dcnv2(**arguments, padding=1)


def layer(dtype: torch.dtype = torch.float32) -> DCN:
    torch.manual_seed(0)
    module = DCN(4, 5, 3, 1, 1).to(dtype)
    torch.nn.init.normal_(module.conv_offset_mask.weight, std=0.3)
    return module


def operators(module: DCN, x: Tensor) -> list[str]:
    graph = torch.export.export(module, (x,)).graph
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def test_a_layer_is_exported_in_parts() -> None:
    """The sigmoid is a node of its own."""
    found = operators(layer().eval(), torch.randn(1, 4, 6, 7))
    assert "convkit.deform_conv2d.default" in found
    assert "aten.sigmoid.default" in found


def test_a_layer_goes_in_parts_on_the_cpu_and_whole_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way with the same numbers."""
    from convkit_plugins.dcnv2.op import _module

    whole: list[Tensor] = []

    def spy(*arguments: Any) -> Tensor:
        whole.append(dcnv2(*arguments))
        return whole[-1]

    monkeypatch.setattr(_module, "dcnv2", spy)
    module, x = layer(torch.float64), torch.randn(2, 4, 6, 7, dtype=torch.float64)
    in_parts = module(x)
    assert not whole
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: tensor.dim() == 4))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: False)
    assert torch.equal(module(x), in_parts)
    assert len(whole) == 1
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert distance(module(x).detach(), in_parts.detach()) == 0
    assert len(whole) == 1
