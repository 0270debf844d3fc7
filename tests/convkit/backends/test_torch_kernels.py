"""The kernels of the torch backend on the host, against PyTorch's operators in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_kernels import FIRST_LAYERS
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch._gpu import pack_first_layer
from convkit.backends.torch._kernels import (
    BIAS,
    DEPTHWISE_TRANSPOSED,
    FEW_FILTERS,
    MAX_POOL,
    FirstLayer,
    first_layer_variant,
)
from convkit.cuda import Variant
from convkit.errors import KernelError
from convkit.testing.cuda_host import host_problem, run_on_host

pytestmark = pytest.mark.skipif(bool(host_problem()), reason=host_problem() or "there is a compiler")

ROUNDOFF = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
CHECKED: dict[str, Any] = {"guard": True, "order": 3}


def stored(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return channels-last memory as an array of a type that NumPy has."""
    dense = tensor.permute(0, 2, 3, 1).contiguous() if tensor.dim() == 4 else tensor.contiguous()
    return dense.view(torch.int16).numpy().view(np.uint16 if tensor.dtype == torch.bfloat16 else np.float16)


def read(values: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    """Return the tensor [N, C, H, W] of what a kernel wrote."""
    return torch.from_numpy(values.view(np.int16)).view(dtype).permute(0, 3, 1, 2)


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """One rounding of the result, and what the float sums lose."""
    error = (found.double() - expected).abs()
    assert (error <= ROUNDOFF[dtype] * expected.abs() * 1.01 + 1e-5).all(), float(error.max())


def convolved(layer: FirstLayer, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    result = F.conv2d(x.double(), weight.double(), bias.double(), layer.stride, layer.padding).relu()
    return F.max_pool2d(result, 3, 2, 1) if layer.pool else result


def on_host(variant: Variant, arguments: list[Any], options: dict[str, Any], **sizes: int) -> None:
    run_on_host(variant, variant.launch_config(**sizes).check(), arguments, **options)


def first(layer: FirstLayer, x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """Return the first layer as the kernel computes it."""
    inner = [(size + 2 * layer.padding - layer.kernel) // layer.stride + 1 for size in x.shape[2:]]
    outer = [(size - 1) // 2 + 1 for size in inner] if layer.pool else inner
    out = np.full((len(x), *outer, layer.filters), 0x7E00, np.uint16)
    out = out.view(np.uint16 if x.dtype == torch.bfloat16 else np.float16)
    variant = first_layer_variant(
        layer, str(x.dtype).removeprefix("torch."), pairs=x.shape[3] * layer.channels % 2 == 0
    )
    arguments = [stored(x), stored(pack_first_layer(layer, weight)), stored(bias), out]
    on_host(
        variant, [*arguments, len(x), *x.shape[2:], *inner, *outer], options, batch=len(x), out_height=outer[0],
        out_width=outer[1], multiprocessors=2,
    )  # fmt: skip
    return read(out, x.dtype)


@pytest.mark.parametrize("layer", FIRST_LAYERS.values(), ids=FIRST_LAYERS)
@pytest.mark.parametrize(("dtype", "width"), [(torch.float16, 78), (torch.bfloat16, 71)])
def test_the_first_layer(layer: FirstLayer, dtype: torch.dtype, width: int) -> None:
    size = (45 if layer.pool else 19, width)
    x = random(2, layer.channels, *size, dtype=dtype)
    weight = random(layer.filters, layer.channels, layer.kernel, layer.kernel, dtype=dtype, seed=1)
    bias = random(layer.filters, dtype=dtype, seed=2)
    close(first(layer, x, weight, bias, **CHECKED), convolved(layer, x, weight, bias), dtype)


def test_the_first_layer_has_no_races() -> None:
    layer = replace(FIRST_LAYERS["resnet"], filters=16)
    x, weight, bias = (random(*shape, dtype=torch.float16) for shape in ((1, 3, 40, 38), (16, 3, 7, 7), (16,)))
    close(first(layer, x, weight, bias, races=True), convolved(layer, x, weight, bias), torch.float16)


def test_what_is_not_a_number_stays_so_through_the_pool() -> None:
    layer = FIRST_LAYERS["resnet"]
    x = random(1, 3, 64, 64, dtype=torch.float16)
    weight, bias = random(64, 3, 7, 7, dtype=torch.float16), random(64, dtype=torch.float16)
    bias[5] = torch.nan
    found = first(layer, x, weight, bias)
    assert found[:, 5].isnan().all()
    assert found[:, :5].isfinite().all()


@pytest.mark.parametrize(("layer", "served"), [
    (FirstLayer(64, 3, 7, 2, 3, True), True), (FirstLayer(64, 5, 7, 2, 3, True), False),
    (FirstLayer(24, 3, 7, 2, 3, True), False), (FirstLayer(64, 4, 31, 2, 3, True), False),
])  # fmt: skip
def test_which_layers_are_served(layer: FirstLayer, served: bool) -> None:
    assert layer.served == served


def test_a_wrong_size_of_shared_memory_does_not_compile() -> None:
    variant = first_layer_variant(FIRST_LAYERS["resnet"], "float16", pairs=True)
    constants = dict(variant.constants)
    wrong = variant.kernel.variant(**{**constants, "SHARED": int(constants["SHARED"]) + 16})
    config = wrong.launch_config(batch=1, out_height=8, out_width=8, multiprocessors=1)
    with pytest.raises(KernelError, match="SHARED"):
        run_on_host(wrong, config, [None] * 4 + [1] * 7)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_bias_is_added_in_place(dtype: torch.dtype, relu: bool) -> None:
    x, bias = random(3, 24, 7, 5, dtype=dtype), random(24, dtype=dtype, seed=1)
    memory = stored(x).copy()
    pieces = x.numel() // 8
    variant = BIAS.variant(T=str(dtype).removeprefix("torch."), CHANNELS=24, RELU=relu)
    on_host(variant, [memory, stored(bias), pieces], CHECKED, pieces=pieces, multiprocessors=1)
    expected = x.double() + bias.double().view(-1, 1, 1)
    close(read(memory, dtype), expected.relu() if relu else expected, dtype)


POOLS = {
    "3 x 3, stride 2": ((3, 3), (2, 2), (1, 1), (1, 1)),
    "2 x 2": ((2, 2), (2, 2), (0, 0), (1, 1)),
    "unequal axes": ((2, 3), (1, 2), (1, 0), (2, 1)),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_max_pooling(pool: tuple[tuple[int, int], ...]) -> None:
    x = random(2, 16, 9, 11, dtype=torch.float16)
    x[0, 3, 4, 5] = torch.nan
    expected = F.max_pool2d(x.double(), *pool)
    out = np.zeros((2, *expected.shape[2:], 16), np.float16)
    names = ("KERNEL", "STRIDE", "PAD", "DILATION")
    constants = {
        f"{name}_{axis}": pair[i] for name, pair in zip(names, pool, strict=True) for i, axis in enumerate("YX")
    }
    pieces = out.size // 8
    arguments = [stored(x), out, pieces, 9, 11, 16, *expected.shape[2:]]
    on_host(MAX_POOL.variant(T="float16", **constants), arguments, CHECKED, pieces=pieces, multiprocessors=1)
    assert torch.equal(read(out, torch.float16).double().nan_to_num(7e4), expected.nan_to_num(7e4))


@pytest.mark.parametrize(("filters", "channels", "pitch"), [(1, 8, 8), (2, 64, 64), (3, 136, 144), (8, 64, 192)])
def test_a_convolution_with_few_filters(filters: int, channels: int, pitch: int) -> None:
    x = random(2, pitch, 5, 9, dtype=torch.float16)
    weight = random(filters, channels, 1, 1, dtype=torch.float16, seed=1)
    bias = random(filters, dtype=torch.float16, seed=2)
    out = np.zeros((2, 5, 9, filters), np.float16)
    variant = FEW_FILTERS.variant(T="float16", CHANNELS=channels, FILTERS=filters)
    arguments = [stored(x), stored(weight.flatten(1)), stored(bias), out, 90, pitch]
    on_host(variant, arguments, CHECKED, pixels=90, multiprocessors=1)
    expected = F.conv2d(x[:, :channels].double(), weight.double(), bias.double())
    close(read(out, torch.float16), expected, torch.float16)


SCALED = {
    "2 times": ((4, 4), (2, 2), (1, 1)),
    "4 times": ((8, 8), (4, 4), (2, 2)),
    "unequal axes": ((5, 2), (2, 1), (2, 0)),
    "gaps": ((2, 3), (3, 4), (0, 1)),
}


@pytest.mark.parametrize("ends", [(False, False), (True, False), (True, True)], ids=["plain", "bias", "bias and ReLU"])
@pytest.mark.parametrize("scaled", SCALED.values(), ids=SCALED)
def test_a_transposed_convolution_with_a_filter_a_channel(
    scaled: tuple[tuple[int, int], ...], ends: tuple[bool, bool]
) -> None:
    kernel, stride, padding = scaled
    x, weight = random(2, 24, 5, 7, dtype=torch.float16), random(24, 1, *kernel, dtype=torch.float16, seed=1)
    bias = random(24, dtype=torch.float16, seed=2)
    x[1, 3, 2, 4] = torch.nan
    expected = F.conv_transpose2d(
        x.double(), weight.double(), bias.double() if ends[0] else None, stride, padding, groups=24
    )
    expected = expected.relu() if ends[1] else expected
    size = expected.shape[2:]
    out = np.zeros((2, *size, 24), np.float16)
    pairs = zip(("KERNEL", "STRIDE", "PAD"), scaled, strict=True)
    constants = {f"{name}_{axis}": pair[i] for name, pair in pairs for i, axis in enumerate("YX")}
    variant = DEPTHWISE_TRANSPOSED.variant(T="float16", CHANNELS=24, BIAS=ends[0], RELU=ends[1], **constants)
    pieces = out.size // 8
    arguments = [stored(x), stored(weight[:, 0].permute(1, 2, 0)), stored(bias), out, pieces, 5, 7, *size]
    on_host(variant, arguments, CHECKED, pieces=pieces, multiprocessors=1)
    found = read(out, torch.float16)
    assert torch.equal(found.isnan(), expected.isnan())
    close(found.nan_to_num(), expected.nan_to_num(), torch.float16)
