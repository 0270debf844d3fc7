"""Before a kernel: autocast, the form of outputs, and the choice between a kernel and PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from support.deform_host import Inputs, inputs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from convkit_plugins.dcnv2 import deform_conv2d
from convkit_plugins.dcnv2.cuda import Layer
from convkit_plugins.dcnv2.op import _dispatch, dcnv2
from convkit_plugins.dcnv2.op._dispatch import layer_of, on_kernels

LAYER = Layer(5, (2, 3), (1, 2), (0, 1), (2, 1), 2)


def whole(data: Inputs) -> Tensor:
    return dcnv2(data.x, data.raw, data.weight, data.bias, *data.settings)


def in_parts(data: Inputs) -> Tensor:
    return deform_conv2d(data.x, data.weight, data.offset, data.bias, data.mask, *data.settings)


OPERATORS = pytest.mark.parametrize("operator", [whole, in_parts])


@pytest.fixture
def autocast() -> Iterator[Callable[[], object]]:
    """Give what sends CPU tensors the way that autocast sends those of a GPU, in bfloat16."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CUDA is not available")
        yield lambda: torch._C._IncludeDispatchKeyGuard(torch._C.DispatchKey.AutocastCUDA)
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", dtype)


@OPERATORS
def test_autocast_on_a_gpu_computes_in_its_dtype(
    operator: Callable[[Inputs], Tensor], autocast: Callable[[], object]
) -> None:
    """Inputs of several types, too; gradients have those of the inputs."""
    data = inputs(LAYER, torch.float32, 4, (6, 7))
    mixed = Inputs(LAYER, data.x.half(), data.raw, data.weight.requires_grad_(), data.bias)
    with autocast():  # type: ignore[attr-defined]
        result = operator(mixed)
    narrow = (data.x.half().bfloat16(), data.raw.bfloat16(), data.weight.bfloat16(), data.bias.bfloat16())
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, operator(Inputs(LAYER, *narrow)))
    assert torch.is_autocast_enabled("cuda")
    result.float().sum().backward()
    assert data.weight.grad is not None
    assert data.weight.grad.dtype == torch.float32
    assert data.weight.grad.any()


@OPERATORS
def test_autocast_leaves_float64_alone(operator: Callable[[Inputs], Tensor], autocast: Callable[[], object]) -> None:
    data = inputs(LAYER, torch.float64, 4, (6, 7))
    with autocast():  # type: ignore[attr-defined]
        result = operator(data)
    assert result.dtype == torch.float64
    assert torch.equal(result, operator(data))


@OPERATORS
def test_compilers_are_told_the_form_of_outputs(operator: Callable[[Inputs], Tensor]) -> None:
    """Planes on the CPU, even of channels-last inputs."""
    with FakeTensorMode():
        x, raw = torch.empty(2, 4, 6, 7).contiguous(memory_format=torch.channels_last), torch.empty(2, 36, 4, 4)
        result = operator(Inputs(LAYER, x, raw, torch.empty(5, 4, 2, 3), torch.empty(5)))
    assert result.shape == (2, 5, 4, 4)
    assert result.is_contiguous()
    assert operator(inputs(LAYER, torch.float32, 4, (6, 7), batch=2)).stride() == result.stride()


def test_layer_of_the_arguments() -> None:
    weight = torch.empty(5, 4, 2, 3)
    assert layer_of(weight, (1, 2), (0, 1), [2, 1], 2) == LAYER


@pytest.mark.parametrize(
    ("dtype", "batch", "kernels"),
    [
        (torch.float32, 1, True),
        (torch.float16, 2, True),
        (torch.bfloat16, 2, True),
        (torch.float64, 1, False),
        (torch.float16, 0, False),
    ],
    ids=str,
)
def test_what_kernels_compute(dtype: torch.dtype, batch: int, kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_has_cupy", lambda: True)
    assert on_kernels(torch.empty(batch, 4, 6, 7, dtype=dtype)) == kernels


def test_without_cupy_it_is_told_once_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "find_spec", lambda name: None)
    _dispatch._has_cupy.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r'pip install "convkit\[cuda\]"'):
            assert not on_kernels(torch.empty(1, 4, 6, 7))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not on_kernels(torch.empty(1, 4, 6, 7))
    finally:
        _dispatch._has_cupy.cache_clear()
