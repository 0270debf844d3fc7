"""The operator on a GPU: which kernel serves a call, and its launch.

* float16 and bfloat16 on compute capability 9.0: ``hopper.cu``, with a tactic found by a short search.
* float16 and bfloat16 on 8.0 and newer, and float32 where PyTorch may use TF32: ``tensor.cu``.
* everything else, above all float32 in full precision: ``plain.cu``.

The first two read channels-last memory; an input that is not is copied. float16 samples are blended in float16 where
PyTorch may reduce float16 products in reduced precision
(``torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction``, on by default), else in float32. Coordinates,
bilinear weights before that blending, and the sums of the product are float32 always.

The first two expect finite numbers in ``x``: a tap outside of the image reads pixels at its border and weighs them with
zero. Offsets and masks may be anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from convkit.cuda import Variant, compile_variant, flatten, load
from convkit.errors import ConvkitError
from convkit_plugins.dcnv2.cuda import _hopper, _plain, _tensor
from convkit_plugins.dcnv2.cuda._layers import Layer, Layout
from convkit_plugins.dcnv2.cuda._outputs import empty_output, memory_format
from convkit_plugins.dcnv2.cuda._search import best_tactic
from convkit_plugins.dcnv2.cuda._tactics import Tactic, candidates
from convkit_plugins.dcnv2.cuda._weights import PackedWeights, pack_for_mma, pack_for_plain, pack_for_wgmma

__all__ = ["convolve", "kernel_for"]

TRIED = 6
"""Tactics that a search compares."""

_packed = PackedWeights()
_hopper_variant = lru_cache(maxsize=1024)(_hopper.hopper_variant)
_tensor_variant = lru_cache(maxsize=1024)(_tensor.tensor_variant)
_plain_variant = lru_cache(maxsize=1024)(_plain.PLAIN.variant)


def kernel_for(layer: Layer, dtype: str, x_shape: Sequence[int], capability: int, *, tf32: bool) -> str:
    """Return the name of the kernel that serves a call: hopper, tensor or plain.

    Args:
        layer: the settings of the layer.
        dtype: float32, float16 or bfloat16.
        x_shape: [N, C, H, W].
        capability: the device's compute capability, for example 90.
        tf32: whether float32 may be computed as TF32.
    """
    if capability == 90 and _hopper.hopper_serves(layer, dtype, x_shape):
        return "hopper"
    if capability >= 80 and (dtype != "float32" or tf32) and _tensor.tensor_serves(layer, dtype, x_shape):
        return "tensor"
    return "plain"


def convolve(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor,
    mask: Tensor,
    layer: Layer,
    *,
    sigmoid: bool = False,
    relu: bool = False,
) -> Tensor:
    """Return the convolution on the GPU of ``x``, in one launch once its weights are packed.

    Args:
        x: [N, C, H, W], float32, float16 or bfloat16, with N of at least 1.
        weight: [O, C, kh, kw], like the following of the dtype of ``x``.
        offset: [N, 2 G kh kw, oh, ow]; with ``mask`` it may be a part of one tensor.
        bias: [O].
        mask: [N, G kh kw, oh, ow].
        layer: the settings.
        sigmoid: whether ``mask`` holds logits.
        relu: whether the result passes a ReLU.

    Raises:
        KernelArgumentError: the tensors are too large for indices of 32 bits.
        ConvkitError: the kernel cannot be compiled or launched here.
    """
    with torch.cuda.device(x.device):
        dtype = str(x.dtype).removeprefix("torch.")
        major, minor = torch.cuda.get_device_capability()
        kernel = kernel_for(layer, dtype, x.shape, major * 10 + minor, tf32=_tf32())
        out = empty_output(x, layer.filters, (offset.shape[2], offset.shape[3]))
        offset, mask = _pixels_in_order(offset), _pixels_in_order(mask)
        if kernel == "plain":
            _plainly(x, weight, offset, bias, mask, out, layer, sigmoid, relu)
        else:
            x = x.contiguous(memory_format=torch.channels_last)
            x = x if x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.channels_last)
            count = torch.cuda.get_device_properties(x.device).multi_processor_count
            launch = _on_hopper if kernel == "hopper" else _on_tensor_cores
            launch(x, weight, offset, bias.contiguous(), mask, out, layer, sigmoid, relu, count)
    return out


def _on_hopper(
    x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, out: Tensor, layer: Layer,
    sigmoid: bool, relu: bool, multiprocessors: int,
) -> None:  # fmt: skip
    dtype, planes = str(x.dtype).removeprefix("torch."), memory_format(out) == torch.contiguous_format
    exact = x.dtype == torch.bfloat16 or not _reduced()
    batch, channels = x.shape[:2]
    out_height, out_width = out.shape[2:]
    problem = _hopper.problem_of(layer, channels, batch * out_height * out_width, exact)
    scalars = _hopper.layout_scalars(*map(_layout, (x, offset, mask, out)))

    def variant(tactic: Tactic) -> Variant:
        return _hopper_variant(layer, dtype, channels, tactic, sigmoid=sigmoid, relu=relu, planes=planes, exact=exact)

    def prepare(tactic: Tactic) -> Callable[[], Tensor]:
        launcher = load(variant(tactic))
        launch = launcher.geometry(
            batch=batch, out_height=out_height, out_width=out_width, multiprocessors=multiprocessors
        )
        key = ("wgmma", tactic.tile_n)
        weights = _packed.get(weight, key, lambda tensor: pack_for_wgmma(tensor, tactic.tile_n))

        def call() -> Tensor:
            launcher(launch, x, offset, mask, weights, bias, out, *scalars)
            return out

        return call

    tactics = candidates(problem, TRIED)
    key = f"{_digest(_hopper.HOPPER.source)} {layer} {dtype} {sigmoid} {relu} {planes}"
    prepare(best_tactic(problem, key, tactics, prepare, lambda: _compile_together(map(variant, tactics))))()


def _on_tensor_cores(
    x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, out: Tensor, layer: Layer,
    sigmoid: bool, relu: bool, multiprocessors: int,
) -> None:  # fmt: skip
    dtype, planes = str(x.dtype).removeprefix("torch."), memory_format(out) == torch.contiguous_format
    batch, channels = x.shape[:2]
    out_height, out_width = out.shape[2:]
    division = _tensor.division_for(layer, channels, dtype, batch * out_height * out_width, multiprocessors)
    assert division is not None  # tensor_serves has asked
    exact = x.dtype != torch.float16 or not _reduced()
    launcher = load(
        _tensor_variant(layer, dtype, channels, division, sigmoid=sigmoid, relu=relu, planes=planes, exact=exact)
    )
    columns = division.tile_n
    weights = _packed.get(weight, ("mma", columns), lambda tensor: pack_for_mma(tensor, columns))
    launch = launcher.geometry(batch=batch, out_height=out_height, out_width=out_width)
    launcher(
        launch, x, offset, mask, weights, bias, out, *_hopper.layout_scalars(*map(_layout, (x, offset, mask, out)))
    )


def _plainly(
    x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, out: Tensor, layer: Layer,
    sigmoid: bool, relu: bool,
) -> None:  # fmt: skip
    batch = x.shape[0]
    out_height, out_width = out.shape[2:]
    tile = _plain.tile_for(batch * out_height * out_width, layer.filters)
    launcher = load(
        _plain_variant(
            T=str(x.dtype).removeprefix("torch."),
            SIGMOID=sigmoid,
            RELU=relu,
            VECTOR=_plain.can_load_four(layer, _layout(x), x.data_ptr(), x.element_size()),
            **{name.upper(): value for name, value in tile._asdict().items()},
        )
    )
    key = ("plain", layer.groups, tile.filters)
    weights = _packed.get(weight, key, lambda tensor: pack_for_plain(tensor, layer.groups, tile.filters))
    launch = launcher.geometry(batch=batch, filters=layer.filters, out_height=out_height, out_width=out_width)
    scalars = _plain.plain_scalars(layer, *map(_layout, (x, offset, mask, out)))
    launcher(launch, x, offset, mask, weights, bias.contiguous(), out, *scalars)


def _layout(tensor: Tensor) -> Layout:
    return Layout(tuple(tensor.shape), tensor.stride())


def _pixels_in_order(tensor: Tensor) -> Tensor:
    """Return a tensor [N, C, H, W] whose rows follow each other like its pixels, the same memory if it is so."""
    image, channel, row, pixel = tensor.stride()
    height, width = tensor.shape[2:]
    if height == 1 or row == width * pixel:
        return tensor
    if width == 1:  # PyTorch keeps any stride between pixels where there is but one
        return tensor.as_strided(tensor.shape, (image, channel, row, row))
    return tensor.contiguous()


def _tf32() -> bool:
    """Tell whether PyTorch may compute float32 products as TF32."""
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    return precision == "tf32" if precision is not None else bool(torch.backends.cuda.matmul.allow_tf32)


def _reduced() -> bool:
    """Tell whether PyTorch may reduce float16 products in reduced precision."""
    return bool(torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction)


@lru_cache(maxsize=4)
def _digest(source: object) -> str:
    """Return what changes when a kernel's source does."""
    return hashlib.sha256(flatten(source).encode()).hexdigest()[:16]  # type: ignore[arg-type]


def _compile_together(variants: Sequence[Variant] | map[Variant]) -> None:
    """Compile variants side by side; the cache keeps them. One that fails is left for `load` to tell of."""

    def build(variant: Variant) -> None:
        try:
            compile_variant(variant, variant.kernel.target(90, "cubin"), "cubin")
        except ConvkitError:
            return

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(build, variants))
