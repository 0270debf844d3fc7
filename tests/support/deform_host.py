"""Inputs of the deformable convolution of every kind, their definition, and kernels on their memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from support.deform_definition import deform_conv2d_by_loops
from torch import Tensor

from convkit.cuda import ArrayView, LaunchConfig, Variant
from convkit.testing.cuda_host import run_on_host
from convkit_plugins.dcnv2.cuda import Layer, layout_scalars

STRANGE = (float("nan"), float("inf"), -float("inf"), 1e30, -6e4, -1.0, 0.0, 1.0, 0.5, -0.5, 2.0, 1.5)
"""Offsets that are NaN, infinite, huge, whole or half: mixed with ordinary ones."""


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call: ``raw`` [N, 3 G kh kw, oh, ow] contains offsets and the logits of masks."""

    layer: Layer
    x: Tensor
    raw: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def offset(self) -> Tensor:
        return self.raw[:, : self.raw.shape[1] // 3 * 2]

    @property
    def mask(self) -> Tensor:
        return self.raw[:, self.raw.shape[1] // 3 * 2 :]

    @property
    def settings(self) -> tuple[Any, ...]:
        layer = self.layer
        return layer.stride, layer.padding, layer.dilation, layer.groups

    def definition(self, *, sigmoid: bool = True, relu: bool = False) -> np.ndarray:
        """The result [N, O, oh, ow] in float64."""
        mask = self.mask.double()
        arrays = (self.x, self.weight, self.offset, self.bias, mask.sigmoid() if sigmoid else mask)
        with np.errstate(invalid="ignore"):
            result = deform_conv2d_by_loops(*(array.double().cpu().numpy() for array in arrays), *self.settings)
        return np.maximum(result, 0) if relu else result


def inputs(
    layer: Layer,
    dtype: torch.dtype,
    channels: int,
    size: tuple[int, int],
    *,
    batch: int = 1,
    last: bool = True,
    raw_last: bool = True,
    strange: Sequence[float] = STRANGE,
    seed: int = 0,
    device: str = "cpu",
) -> Inputs:
    """Return inputs whose results are of the order of one; ``last`` and ``raw_last`` ask for channels-last memory."""
    generator = torch.Generator().manual_seed(seed)
    axes = zip(size, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
    taps = layer.groups * layer.kernel[0] * layer.kernel[1]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    raw = normal(batch, 3 * taps, *out)
    offsets = raw[:, : 2 * taps]
    offsets *= 2
    if strange:
        chosen = torch.rand(offsets.shape, generator=generator) < 0.25
        values = torch.tensor(strange, dtype=torch.float64)
        offsets[chosen] = values[torch.randint(len(strange), (int(chosen.sum()),), generator=generator)]
    form, raw_form = (torch.channels_last if flag else torch.contiguous_format for flag in (last, raw_last))
    return Inputs(
        layer,
        normal(batch, channels, *size).to(device, dtype).contiguous(memory_format=form),
        raw.to(device, dtype).contiguous(memory_format=raw_form),
        (normal(layer.filters, channels, *layer.kernel) / (channels * taps / layer.groups) ** 0.5).to(device, dtype),
        normal(layer.filters).to(device, dtype),
    )


@dataclass(frozen=True, kw_only=True)
class Call:
    """A layer, the sizes and layouts of its tensors, and the options of a tensor-core kernel."""

    layer: Layer
    dtype: str = "float16"
    batch: int = 1
    channels: int = 24
    size: tuple[int, int] = (5, 6)
    sigmoid: bool = True
    relu: bool = False
    planes: bool = False
    blend_fp32: bool = True
    raw_last: bool = True
    strange: tuple[float, ...] = STRANGE
    seed: int = 0

    @property
    def constants(self) -> dict[str, bool]:
        return {"sigmoid": self.sigmoid, "relu": self.relu, "planes": self.planes, "blend_fp32": self.blend_fp32}

    def inputs(self) -> Inputs:
        return inputs(
            self.layer, getattr(torch, self.dtype), self.channels, self.size, batch=self.batch,
            raw_last=self.raw_last, strange=self.strange, seed=self.seed,
        )  # fmt: skip

    def run(self, variant: Variant, weights: Tensor, given: Inputs, sizes: dict[str, int], **options: Any) -> Tensor:
        """The output of a variant with packed weights on the host, in memory that held no numbers."""
        height, width = given.raw.shape[2:]
        out = torch.full((self.batch, self.layer.filters, height, width), torch.nan, dtype=given.x.dtype)
        out = out.contiguous(memory_format=torch.contiguous_format if self.planes else torch.channels_last)
        config = variant.launch_config(batch=self.batch, out_height=height, out_width=width, **sizes)
        scalars = layout_scalars(*map(view, (given.x, given.offset, given.mask, out)))
        tensors = (given.x, given.offset, given.mask, weights, given.bias, out)
        launch_on_host(variant, config, *tensors, *scalars, **options)
        return out


def distance(result: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    """The relative L2 distance; NaN anywhere makes it NaN, which is below no bound."""
    ours, theirs = (torch.as_tensor(values).double().cpu() for values in (result, expected))
    return float((ours - theirs).norm() / theirs.norm())


def view(tensor: Tensor) -> ArrayView:
    """The view of a tensor on any device."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return ArrayView(tuple(tensor.shape), tensor.stride(), dtype, tensor.data_ptr())


def memory(tensor: Tensor) -> np.ndarray:
    """The memory from a tensor's first element to the end of its storage, not copied; bfloat16 as its bits."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    flat = tensor.detach().as_strided((count,), (1,))
    return (flat.view(torch.uint16) if tensor.dtype == torch.bfloat16 else flat).numpy()


def launch_on_host(variant: Variant, config: LaunchConfig, *arguments: Any, **options: Any) -> None:
    """Run a kernel on the memory of CPU tensors."""
    values = [memory(value) if isinstance(value, Tensor) else value for value in arguments]
    run_on_host(variant, config, values, **options)
