"""The operator on a GPU: which kernel serves a call, and its launch.

* float16 and bfloat16 on compute capability 9.0: ``hopper.cu``, with the fastest of a few tactics (see ``_search``).
* float16 and bfloat16 on 8.0 and newer, and float32 where PyTorch may use TF32: ``tensor.cu``.
* everything else, above all float32 in full precision: ``plain.cu``.

The first two read channels-last memory; an input in another format is copied. float16 samples are blended in float16
where PyTorch may reduce float16 products in reduced precision
(``torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction``, on by default), else in float32. Coordinates,
bilinear weights before that blending, and the sums of the product are always float32.

Offsets and masks may be anything. ``x`` must be finite for the first two kernels: a tap reads four pixels of the image
even where some or all of them have no weight, and zero times infinity or NaN is NaN. ``plain.cu`` does not read pixels
that a tap does not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from convkit.cuda import ArrayView, Variant, compile_variant, flatten, load
from convkit.errors import ConvkitError
from convkit.files import sha256
from convkit_plugins.dcnv2.cuda import _hopper, _plain, _tensor
from convkit_plugins.dcnv2.cuda._layers import Layer, layout_scalars
from convkit_plugins.dcnv2.cuda._outputs import empty_output, memory_format
from convkit_plugins.dcnv2.cuda._search import best_tactic
from convkit_plugins.dcnv2.cuda._tactics import Tactic, candidates
from convkit_plugins.dcnv2.cuda._weights import PackedWeights, pack_for_mma, pack_for_plain, pack_for_wgmma

__all__ = ["convolve", "kernel_for"]

TRIED = 6
"""The number of tactics that a search compares."""

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
        major, minor = torch.cuda.get_device_capability()
        kernel = kernel_for(layer, str(x.dtype).removeprefix("torch."), x.shape, major * 10 + minor, tf32=_tf32())
        out = empty_output(x, layer.filters, (offset.shape[2], offset.shape[3]))
        if kernel != "plain":
            x = x.contiguous(memory_format=torch.channels_last)
            x = x if x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.channels_last)
        call = _Call(
            x, weight, _pixels_in_order(offset), bias.contiguous(), _pixels_in_order(mask), out, layer, sigmoid, relu
        )
        launch = {"hopper": _on_hopper, "tensor": _on_tensor_cores, "plain": _on_plain}[kernel]
        launch(call)
    return out


class _Call(NamedTuple):
    """The arguments of `convolve` in memory that the kernels can read, and the output."""

    x: Tensor
    weight: Tensor
    offset: Tensor
    bias: Tensor
    mask: Tensor
    out: Tensor
    layer: Layer
    sigmoid: bool
    relu: bool

    @property
    def dtype(self) -> str:
        return str(self.x.dtype).removeprefix("torch.")

    @property
    def channels(self) -> int:
        return self.x.shape[1]

    @property
    def pixels(self) -> int:
        """Output pixels of the whole batch."""
        return self.out.shape[0] * self.out.shape[2] * self.out.shape[3]

    @property
    def sizes(self) -> dict[str, int]:
        return {"batch": self.out.shape[0], "out_height": self.out.shape[2], "out_width": self.out.shape[3]}

    @property
    def constants(self) -> dict[str, bool]:
        planes = memory_format(self.out) == torch.contiguous_format
        return {"sigmoid": self.sigmoid, "relu": self.relu, "planes": planes}

    @property
    def views(self) -> tuple[ArrayView, ArrayView, ArrayView, ArrayView]:
        return _view(self.x), _view(self.offset), _view(self.mask), _view(self.out)

    @property
    def multiprocessors(self) -> int:
        return int(torch.cuda.get_device_properties(self.x.device).multi_processor_count)


def _on_hopper(call: _Call) -> None:
    problem = _hopper.problem_of(
        call.layer, call.channels, call.pixels, blend_fp32=call.x.dtype == torch.bfloat16 or not _reduced()
    )
    scalars = layout_scalars(*call.views)
    multiprocessors = call.multiprocessors

    def variant(tactic: Tactic) -> Variant:
        return _hopper_variant(
            call.layer, call.dtype, call.channels, tactic, **call.constants, blend_fp32=problem.blend_fp32
        )

    def prepare(tactic: Tactic) -> Callable[[], Tensor]:
        launcher = load(variant(tactic))
        config = launcher.launch_config(**call.sizes, multiprocessors=multiprocessors)
        key = ("wgmma", tactic.tile_n)
        weights = _packed.get(call.weight, key, lambda tensor: pack_for_wgmma(tensor, tactic.tile_n))

        def launch() -> Tensor:
            launcher(config, call.x, call.offset, call.mask, weights, call.bias, call.out, *scalars)
            return call.out

        return launch

    def reference() -> Tensor | None:
        if not call.x.isfinite().all():  # then the kernels differ (see the module's docstring)
            return None
        result = call._replace(out=torch.empty_like(call.out))
        _on_plain(result)
        return result.out

    tactics = candidates(problem, TRIED)
    key = f"{_digest(_hopper.HOPPER.source)} {call.layer} {call.dtype} {call.constants}"
    best = best_tactic(
        problem, key, tactics, prepare, reference=reference,
        compile_all=lambda: _compile_together([variant(tactic) for tactic in tactics]),
    )  # fmt: skip
    prepare(best)()


def _on_tensor_cores(call: _Call) -> None:
    division = _tensor.division_for(call.layer, call.pixels, call.multiprocessors)
    assert division is not None  # else `tensor_serves` is false
    blend_fp32 = call.x.dtype != torch.float16 or not _reduced()
    launcher = load(
        _tensor_variant(call.layer, call.dtype, call.channels, division, **call.constants, blend_fp32=blend_fp32)
    )
    columns = division.tile_n
    weights = _packed.get(call.weight, ("mma", columns), lambda tensor: pack_for_mma(tensor, columns))
    config = launcher.launch_config(**call.sizes)
    launcher(config, call.x, call.offset, call.mask, weights, call.bias, call.out, *layout_scalars(*call.views))


def _on_plain(call: _Call) -> None:
    layer = call.layer
    tile = _plain.tile_for(call.pixels, layer.filters)
    launcher = load(
        _plain_variant(
            T=call.dtype,
            SIGMOID=call.sigmoid,
            RELU=call.relu,
            VECTOR=_plain.can_load_four(layer, _view(call.x)),
            **{name.upper(): value for name, value in tile._asdict().items()},
        )
    )
    key = ("plain", layer.groups, tile.filters)
    weights = _packed.get(call.weight, key, lambda tensor: pack_for_plain(tensor, layer.groups, tile.filters))
    config = launcher.launch_config(**call.sizes, filters=layer.filters)
    scalars = _plain.plain_scalars(layer, *call.views)
    launcher(config, call.x, call.offset, call.mask, weights, call.bias, call.out, *scalars)


def _view(tensor: Tensor) -> ArrayView:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return ArrayView(tuple(tensor.shape), tensor.stride(), dtype, tensor.data_ptr(), tensor.get_device())


def _pixels_in_order(tensor: Tensor) -> Tensor:
    """Return a tensor [N, C, H, W] without gaps between its rows: the same memory if there are none, else a copy."""
    image, channel, row, pixel = tensor.stride()
    height, width = tensor.shape[2:]
    if height == 1 or row == width * pixel:
        return tensor
    if width == 1:  # PyTorch keeps any stride for an axis with one entry
        return tensor.as_strided(tensor.shape, (image, channel, row, row))
    return tensor.contiguous()


def _tf32() -> bool:
    """Return whether PyTorch may compute float32 products as TF32."""
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    return precision == "tf32" if precision is not None else bool(torch.backends.cuda.matmul.allow_tf32)


def _reduced() -> bool:
    """Return whether PyTorch may reduce float16 products in reduced precision."""
    return bool(torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction)


@lru_cache(maxsize=4)
def _digest(source: Path) -> str:
    """Return a hash of a kernel's source with all that it includes."""
    return sha256(flatten(source))


def _compile_together(variants: Sequence[Variant]) -> None:
    """Compile variants in parallel into the cache. Errors are left for `load` to raise."""

    def build(variant: Variant) -> None:
        with suppress(ConvkitError):
            compile_variant(variant, variant.kernel.target(90, "cubin"), "cubin")

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(build, variants))
