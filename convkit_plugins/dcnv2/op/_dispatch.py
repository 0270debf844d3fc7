"""What surrounds the computation of the operator: the choice of a kernel, autocast, the backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convkit_plugins.dcnv2.cuda import Layer

__all__ = ["autocast_on_cuda", "layer_of", "on_kernels", "register_backward"]

_library = torch.library.Library("convkit", "FRAGMENT")  # type: ignore[no-untyped-call]


def layer_of(
    weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Layer:
    """Return the settings in the form of the kernels; pairs are (vertical, horizontal)."""
    filters, _, height, width = weight.shape
    (sy, sx), (py, px), (dy, dx) = stride, padding, dilation
    return Layer(filters, (height, width), (sy, sx), (py, px), (dy, dx), groups)


def on_kernels(x: Tensor) -> bool:
    """Return whether a CUDA kernel computes for ``x``: not in float64, not for an empty batch, not without cupy."""
    return x.dtype != torch.float64 and x.shape[0] > 0 and _has_cupy()


@lru_cache(maxsize=1)
def _has_cupy() -> bool:
    if find_spec("cupy"):
        return True
    warnings.warn(
        "cupy is not installed, so deformable convolutions run on PyTorch's own operators, which takes much longer."
        ' To install it: pip install "convkit[cuda]"',
        stacklevel=2,
    )
    return False


def register_backward(operator: str, compute: Callable[..., Tensor], count: int) -> None:
    """Register the backward pass of an operator as that of ``compute``, which takes the same arguments.

    The first ``count`` of these are tensors. The backward pass computes the output once more, differentiably, and lets
    autograd go through it. Keeping the sampled columns from the forward pass would save that time, but would need
    kh * kw times the memory of the input for every layer.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs[:count])
        ctx.settings = inputs[count:]

    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad(), torch.autocast(gradient.device.type, enabled=False):
            tensors = [
                tensor.detach().requires_grad_(needed)
                for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
            ]
            output = compute(*tensors, *ctx.settings)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        gradients = iter(torch.autograd.grad(output, wanted, gradient))
        return (*(next(gradients) if tensor.requires_grad else None for tensor in tensors), *[None] * len(ctx.settings))

    torch.library.register_autograd(operator, backward, setup_context=save)


def autocast_on_cuda(name: str, operator: Callable[..., Tensor]) -> None:
    """Make an operator of the namespace ``convkit`` compute in the dtype of autocast on a GPU."""

    def run(*args: Any) -> Tensor:
        dtype = torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", enabled=False):
            return operator(*(_cast(value, dtype) for value in args))

    _library.impl(name, run, "AutocastCUDA")  # type: ignore[no-untyped-call]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    wanted = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(dtype) if wanted else value
