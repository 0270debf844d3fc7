"""The operator against its definition, ONNX Runtime, numerical derivatives and PyTorch's own op checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from support.deform_definition import deform_conv2d_by_loops

from convkit_plugins.dcnv2 import deform_conv2d
from convkit_plugins.dcnv2.op import output_size

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OPERATOR = torch.ops.convkit.deform_conv2d


@dataclass(frozen=True)
class Layer:
    """The settings of one layer; sizes are small because the definition is slow."""

    batch: int = 2
    channels: int = 4
    filters: int = 3
    size: tuple[int, int] = (6, 7)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def output(self) -> tuple[int, int]:
        columns = F.conv2d(
            torch.zeros(1, 1, *self.size),
            torch.zeros(1, 1, *self.kernel),
            None,
            self.stride,
            self.padding,
            self.dilation,
        )
        return columns.shape[2], columns.shape[3]

    @property
    def taps(self) -> int:
        return self.groups * self.kernel[0] * self.kernel[1]

    @property
    def settings(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups


LAYERS = {
    "centernet": Layer(),
    "stride": Layer(stride=(2, 2)),
    "dilation": Layer(padding=(2, 2), dilation=(2, 2)),
    "groups": Layer(groups=2),
    "stride+dilation+groups": Layer(stride=(2, 2), padding=(2, 2), dilation=(2, 2), groups=4),
    "unequal": Layer(kernel=(2, 3), stride=(1, 2), padding=(0, 2), dilation=(2, 1), groups=2),
    "one row": Layer(size=(1, 7)),
    "one column": Layer(size=(6, 1)),
    "one pixel": Layer(size=(1, 1), filters=1),
    "1x1 kernel": Layer(kernel=(1, 1), padding=(0, 0)),
    "one image": Layer(batch=1, channels=1),
}

OFFSETS = ("zero", "random", "integer", "half", "far outside", "on the border")


def make_inputs(layer: Layer, offsets: str, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return x, weight, offset, bias, mask as float32 whose results are of the order of one."""
    rng = np.random.default_rng(seed)
    taps = layer.kernel[0] * layer.kernel[1]
    x = rng.standard_normal((layer.batch, layer.channels, *layer.size))
    weight = rng.standard_normal((layer.filters, layer.channels, *layer.kernel)) / np.sqrt(taps * layer.channels)
    bias = rng.standard_normal(layer.filters)
    mask = rng.uniform(size=(layer.batch, layer.taps, *layer.output))
    offset = rng.standard_normal((layer.batch, 2 * layer.taps, *layer.output)) * 3
    if offsets == "zero":
        offset[:] = 0
    elif offsets == "integer":
        offset = np.round(offset)
    elif offsets == "half":
        offset = np.floor(offset) + 0.5
    elif offsets == "far outside":
        offset *= 1000
    elif offsets == "on the border":
        offset = _to_border(layer, rng) - _undisplaced(layer)
    return tuple(a.astype(np.float32) for a in (x, weight, offset, bias, mask))


def _undisplaced(layer: Layer) -> np.ndarray:
    """Return [1, 2 G kh kw, oh, ow]: where each tap lies without an offset."""
    kh, kw = layer.kernel
    oh, ow = layer.output
    y = np.arange(oh)[None, None, :, None] * layer.stride[0] - layer.padding[0]
    x = np.arange(ow)[None, None, None, :] * layer.stride[1] - layer.padding[1]
    y = y + np.arange(kh)[:, None, None, None] * layer.dilation[0] + np.zeros((kh, kw, oh, ow))
    x = x + np.arange(kw)[None, :, None, None] * layer.dilation[1] + np.zeros((kh, kw, oh, ow))
    return np.tile(np.stack((y, x), 2).reshape(1, 2 * kh * kw, oh, ow), (1, layer.groups, 1, 1))


def _to_border(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Return random positions among the first and last pixel, the rim around them and just beyond."""
    axes = [rng.choice([-1, -0.5, 0, n - 1, n - 0.5, n], (layer.batch, layer.taps, *layer.output)) for n in layer.size]
    return np.stack(axes, 2).reshape(layer.batch, 2 * layer.taps, *layer.output)


def tensors(arrays: tuple[np.ndarray, ...], dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    return [torch.from_numpy(a).to(device, dtype) for a in arrays]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_definition(name: str, offsets: str, device: str) -> None:
    layer = LAYERS[name]
    arrays = make_inputs(layer, offsets)
    expected = deform_conv2d_by_loops(*arrays, *layer.settings)
    double = deform_conv2d(*tensors(arrays, torch.float64, device), *layer.settings).cpu().numpy()
    single = deform_conv2d(*tensors(arrays, torch.float32, device), *layer.settings).cpu().numpy()
    assert double.shape == (layer.batch, layer.filters, *layer.output)
    np.testing.assert_allclose(double, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("name", LAYERS)
def test_equals_onnx_runtime(name: str, offsets: str, opset: int) -> None:
    layer = LAYERS[name]
    arrays = make_inputs(layer, offsets)
    node = helper.make_node(
        "DeformConv",
        ["x", "weight", "offset", "bias", "mask"],
        ["y"],
        kernel_shape=layer.kernel,
        strides=layer.stride,
        pads=[*layer.padding, *layer.padding],
        dilations=layer.dilation,
        offset_group=layer.groups,
    )
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, a.shape)
        for name, a in zip(node.input, arrays, strict=True)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (layer.batch, layer.filters, *layer.output))
    graph = helper.make_graph([node], "one", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, dict(zip(node.input, arrays, strict=True)))
    actual = deform_conv2d(*tensors(arrays, torch.float32), *layer.settings).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=4e-6)


def test_without_displacement_it_is_an_ordinary_convolution() -> None:
    layer = Layer(stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    x, weight, offset, bias, mask = tensors(make_inputs(layer, "zero"), torch.float64)
    expected = F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)
    actual = deform_conv2d(x, weight, offset, bias, torch.ones_like(mask), *layer.settings)
    torch.testing.assert_close(actual, expected)


def test_bias_and_mask_may_be_left_out() -> None:
    layer = Layer(groups=2)
    x, weight, offset, bias, mask = tensors(make_inputs(layer, "random"), torch.float64)
    full = deform_conv2d(x, weight, offset, torch.zeros_like(bias), torch.ones_like(mask), *layer.settings)
    assert torch.equal(deform_conv2d(x, weight, offset, None, None, 1, 1, 1, 2), full)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38, -1e38])
def test_positions_that_are_not_numbers_or_beyond_all_bounds_sample_nothing(bad: float, device: str) -> None:
    layer = Layer()
    x, weight, offset, bias, mask = tensors(make_inputs(layer, "random"), torch.float32, device)
    without = mask.clone()
    without[:, 4] = 0
    expected = deform_conv2d(x, weight, offset, bias, without, *layer.settings)
    for channel in (8, 9):  # y or x of tap 4
        displaced = offset.clone()
        displaced[:, channel] = bad
        displaced.requires_grad_()
        actual = deform_conv2d(x, weight, displaced, bias, mask, *layer.settings)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
        (gradient,) = torch.autograd.grad(actual.sum(), displaced)
        assert torch.isfinite(gradient).all()
        assert not gradient[:, 8:10].any()


def test_an_infinite_pixel_reaches_only_the_taps_that_touch_it() -> None:
    layer = Layer(batch=1, channels=1, size=(4, 4), kernel=(1, 1), padding=(0, 0))
    x, _, offset, _, _ = tensors(make_inputs(layer, "zero"), torch.float32)
    x[0, 0, 0, 0] = float("inf")
    offset[0, 0] = torch.tensor([0.0, -1.0, -100.0, 0.5])[:, None]  # rows 0, 0 and two outside: 0, 0, -98, 3.5
    y = deform_conv2d(x, torch.ones(1, 1, 1, 1), offset)
    assert torch.isfinite(y[0, 0, 2:]).all()
    assert torch.isfinite(y[0, 0, :2, 1:]).all()
    assert not torch.isfinite(y[0, 0, :2, 0]).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_keep_float32_coordinates(dtype: torch.dtype) -> None:
    """At column 1100 float16 knows whole pixels only, and bfloat16 every eighth; 0.25 must still count."""
    width = 1200
    x = (torch.arange(width) % 2).to(dtype).expand(1, 1, 1, width)
    offset = torch.zeros(1, 2, 1, width, dtype=dtype)
    offset[:, 1] = 0.25
    y = deform_conv2d(x, torch.ones(1, 1, 1, 1, dtype=dtype), offset)
    assert y.dtype == dtype
    expected = torch.tensor([0.25, 0.75], dtype=dtype).repeat(width // 2)
    expected[-1] = 0.75  # a quarter beyond the last pixel, which is 1
    assert torch.equal(y[0, 0, 0], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_rounded_once(dtype: torch.dtype) -> None:
    layer = Layer(channels=16, groups=2)
    half = tensors(make_inputs(layer, "random"), dtype)
    single = deform_conv2d(*(t.float() for t in half), *layer.settings)
    assert torch.equal(deform_conv2d(*half, *layer.settings), single.to(dtype))


def test_memory_layout_of_the_arguments_does_not_matter() -> None:
    layer = LAYERS["unequal"]
    plain = tensors(make_inputs(layer, "random"), torch.float32)
    strided = [t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in plain]
    y = deform_conv2d(*strided, *layer.settings)
    assert y.is_contiguous()
    assert torch.equal(y, deform_conv2d(*plain, *layer.settings))


def test_empty_batch() -> None:
    layer = Layer(batch=0)
    arguments = [t.requires_grad_() for t in tensors(make_inputs(layer, "random"), torch.float32)]
    y = deform_conv2d(*arguments, *layer.settings)
    assert y.shape == (0, layer.filters, *layer.output)
    y.sum().backward()
    assert all(t.grad is not None and not t.grad.any() for t in arguments)


def _away_from_kinks(layer: Layer) -> list[torch.Tensor]:
    """Return float64 arguments whose positions are at least 0.15 px from where the derivative jumps."""
    x, weight, offset, bias, mask = make_inputs(layer, "random")
    rng = np.random.default_rng(1)
    offset = np.floor(offset) + rng.uniform(0.15, 0.85, offset.shape)
    return [t.requires_grad_() for t in tensors((x, weight, offset, bias, mask), torch.float64)]


@pytest.mark.parametrize(
    "layer",
    [
        Layer(batch=1, channels=2, filters=2, size=(4, 3)),
        Layer(channels=2, size=(5, 4), stride=(2, 2), padding=(2, 2), dilation=(2, 2), groups=2),
        Layer(batch=1, size=(3, 4), kernel=(2, 3), stride=(1, 2), padding=(0, 2), dilation=(2, 1), groups=2),
        Layer(batch=1, channels=2, size=(1, 4), filters=1),
    ],
    ids=["plain", "stride+dilation+groups", "unequal", "one row"],
)
def test_gradient_equals_numerical_derivatives(layer: Layer) -> None:
    arguments = _away_from_kinks(layer)
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(*t, *layer.settings), arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_of_some_arguments_only(device: str) -> None:
    layer = LAYERS["groups"]
    everything = [t.detach().to(device).requires_grad_() for t in _away_from_kinks(layer)]
    expected = torch.autograd.grad(deform_conv2d(*everything, *layer.settings).sin().sum(), everything)
    for chosen in range(5):
        arguments = [t.detach().requires_grad_(i == chosen) for i, t in enumerate(everything)]
        deform_conv2d(*arguments, *layer.settings).sin().sum().backward()
        torch.testing.assert_close(arguments[chosen].grad, expected[chosen], rtol=1e-12, atol=1e-12)
        assert all(t.grad is None for i, t in enumerate(arguments) if i != chosen)


def test_a_second_derivative_is_refused() -> None:
    layer = LAYERS["centernet"]
    arguments = _away_from_kinks(layer)
    first = torch.autograd.grad(deform_conv2d(*arguments, *layer.settings).pow(2).sum(), arguments, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first[0].sum().backward()


def test_autocast_on_the_cpu_computes_in_float32() -> None:
    device, layer = "cpu", LAYERS["centernet"]
    full = tensors(make_inputs(layer, "random"), torch.float32, device)
    mixed = [t.bfloat16() if i in (0, 2, 4) else t for i, t in enumerate(full)]
    leaves = [t.detach().requires_grad_() for t in mixed]
    with torch.autocast(device, torch.bfloat16):
        y = deform_conv2d(*leaves, *layer.settings)
        y.sum().backward()
    assert torch.equal(y, deform_conv2d(*(t.float() for t in mixed), *layer.settings))
    assert [t.grad.dtype for t in leaves] == [t.dtype for t in mixed]


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_opcheck(training: bool) -> None:
    layer = Layer(batch=1)
    arguments = [t.requires_grad_(training) for t in tensors(make_inputs(layer, "random"), torch.float32)]
    torch.library.opcheck(OPERATOR.default, (*arguments, *layer.settings, False, False))


def test_compiles_without_graph_breaks() -> None:
    layer = LAYERS["groups"]
    arguments = _away_from_kinks(layer)

    def loss(*t: torch.Tensor) -> torch.Tensor:
        return deform_conv2d(*t, *layer.settings).sin().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(loss(*arguments), arguments)
    actual = torch.autograd.grad(compiled(*arguments), arguments)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_fake_and_real_shapes_agree_with_an_ordinary_convolution(data: st.DataObject) -> None:
    def two(low: int, high: int) -> tuple[int, int]:
        numbers = st.integers(low, high)
        return data.draw(st.tuples(numbers, numbers))

    groups = data.draw(st.integers(1, 3))
    layer = Layer(
        batch=data.draw(st.integers(0, 3)),
        channels=groups * data.draw(st.integers(1, 2)),
        filters=data.draw(st.integers(1, 3)),
        size=two(1, 9),
        kernel=two(1, 4),
        stride=two(1, 3),
        padding=two(0, 3),
        dilation=two(1, 3),
        groups=groups,
    )
    size = [
        output_size(*axis)
        for axis in zip(layer.size, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    ]
    if min(size) < 1:
        with pytest.raises(RuntimeError):
            F.conv2d(torch.zeros(1, 1, *layer.size), torch.zeros(1, 1, *layer.kernel), None, *layer.settings[:3])
        oh, ow = 1, 1
    else:
        oh, ow = layer.output
        assert (oh, ow) == tuple(size)
    shapes = (
        (layer.batch, layer.channels, *layer.size),
        (layer.filters, layer.channels, *layer.kernel),
        (layer.batch, 2 * layer.taps, oh, ow),
        (layer.filters,),
        (layer.batch, layer.taps, oh, ow),
    )
    for device in ("cpu", "meta"):
        arguments = [torch.ones(shape, device=device) for shape in shapes]
        if min(size) < 1:
            with pytest.raises(ValueError, match="no output"):
                deform_conv2d(*arguments, *layer.settings)
        else:
            y = deform_conv2d(*arguments, *layer.settings)
            assert y.shape == (layer.batch, layer.filters, oh, ow)
            assert y.is_contiguous()


BAD = {
    "weight of other channels": ({"weight": (3, 5, 3, 3)}, {}, r"weight of shape \[3, 4, 3, 3\].*got \[3, 5, 3, 3\]"),
    "weight of three axes": ({"weight": (3, 4, 3)}, {}, r"weight \[O, C, kh, kw\]; got .* \[3, 4, 3\]"),
    "offset of half the channels": (
        {"offset": (2, 9, 6, 7)},
        {},
        r"offset of shape \[2, 18, 6, 7\].*got \[2, 9, 6, 7\]",
    ),
    "offset of another size": ({"offset": (2, 18, 5, 7)}, {}, r"offset of shape \[2, 18, 6, 7\]"),
    "offset of another batch": ({"offset": (1, 18, 6, 7)}, {}, r"offset of shape \[2, 18, 6, 7\]"),
    "mask as wide as the offset": ({"mask": (2, 18, 6, 7)}, {}, r"mask of shape \[2, 9, 6, 7\].*got \[2, 18, 6, 7\]"),
    "bias of other filters": ({"bias": (4,)}, {}, r"bias of shape \[3\], \[O\]; got \[4\]"),
    "groups that do not divide": ({}, {"offset_groups": 3}, "divide 4 channels into 3 offset groups"),
    "no groups": ({}, {"offset_groups": 0}, "into 0 offset groups"),
    "stride zero": ({}, {"stride": 0}, r"at least 1 as stride; got \[0, 0\]"),
    "negative padding": ({}, {"padding": (1, -1)}, r"at least 0 as padding; got \[1, -1\]"),
    "three dilations": ({}, {"dilation": (1, 1, 1)}, "too many values"),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_with_the_expected_shape(case: str, device: str) -> None:
    shapes, changed, message = BAD[case]
    right = {"x": (2, 4, 6, 7), "weight": (3, 4, 3, 3), "offset": (2, 18, 6, 7), "bias": (3,), "mask": (2, 9, 6, 7)}
    arguments = {name: torch.zeros(shape, device=device) for name, shape in (right | shapes).items()}
    with pytest.raises(ValueError, match=message):
        deform_conv2d(**arguments, **({"padding": 1} | changed))


def test_dtypes_must_be_equal_and_floating() -> None:
    arguments = tensors(make_inputs(Layer(), "random"), torch.float32)
    with pytest.raises(ValueError, match=r"x is torch\.float32, offset is torch\.float64"):
        deform_conv2d(*arguments[:2], arguments[2].double(), *arguments[3:], 1, 1)
    with pytest.raises(ValueError, match=r"x is torch\.int32"):
        deform_conv2d(*(t.int() for t in arguments), 1, 1)
