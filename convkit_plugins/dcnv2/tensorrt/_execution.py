"""One layer at fixed shapes: its kernels loaded and its launches worked out, so that enqueueing does nothing else.

float16 and bfloat16 run on ``tensor.cu`` where the GPU has it and x is channels-last, everything else on ``plain.cu``.
Samples are blended in float32. x must be finite for ``tensor.cu``: it reads pixels that have no weight as well.

The weights are packed into TensorRT's workspace in front of each launch: only there is the result sure to belong to the
weights that the address holds now. That costs one small kernel and no state, and a CUDA graph captures both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convkit.cuda import ArrayView, LaunchConfig, itemsize, load
from convkit.errors import KernelArgumentError
from convkit_plugins.dcnv2.cuda import (
    PLAIN,
    TILES,
    Layer,
    Packing,
    can_load_four,
    division_for,
    layout_scalars,
    plain_scalars,
    tensor_serves,
    tensor_variant,
    tile_for,
)

__all__ = ["Execution", "Place", "prepare", "workspace_bytes"]

_COLUMNS = (32, 64, 128)
"""Filters of a tile of ``tensor.cu``."""
_ALIGNMENT = 16


@dataclass(frozen=True)
class Place:
    """A tensor [N, C, H, W] as it lies in memory: dense, channels innermost if ``last``."""

    shape: tuple[int, ...]
    last: bool = False

    def view(self, dtype: str) -> ArrayView:
        """Return it as an array at no address."""
        batch, channels, height, width = self.shape
        plane = height * width
        strides = (
            (plane * channels, 1, width * channels, channels) if self.last else (plane * channels, plane, width, 1)
        )
        return ArrayView((batch, channels, height, width), strides, dtype)


@dataclass(frozen=True)
class Execution:
    """The two launches of a layer: ``pack`` and ``convolve`` are launchers, with configurations and scalars."""

    pack: Any
    pack_config: LaunchConfig
    pack_scalars: tuple[int, ...]
    convolve: Any
    config: LaunchConfig
    scalars: tuple[int, ...]
    one: int
    """The bytes from the workspace's beginning to the value one; behind it are zeros."""
    zeros: int
    empty: bool

    def enqueue(self, inputs: Sequence[int], out: int, workspace: int, stream: int) -> None:
        """Enqueue the layer on a stream.

        Args:
            inputs: addresses of x, weight, offset, and perhaps bias and mask.
            out: address of the output.
            workspace: address of at least `workspace_bytes`.
            stream: address of the CUDA stream.

        Raises:
            KernelArgumentError: an address is not aligned as the kernel needs it.
            KernelError: the driver refuses the launch.
        """
        if self.empty:
            return
        x, weight, offset, *more = inputs
        if x % _ALIGNMENT:
            raise KernelArgumentError(f"x is at address {x:#x}, which is not a multiple of {_ALIGNMENT}.")
        bias = more[0] if more else workspace + self.zeros
        mask = more[1] if len(more) > 1 else workspace + self.one
        self.pack(self.pack_config, weight, workspace, *self.pack_scalars, stream=stream)
        self.convolve(self.config, x, offset, mask, workspace, bias, out, *self.scalars, stream=stream)


def prepare(layer: Layer, dtype: str, x: Place, out: Place, *, mask: bool) -> Execution:
    """Return the execution of a layer on the current GPU; kernels are compiled and loaded here.

    Args:
        layer: its settings.
        dtype: float32, float16 or bfloat16, of all its tensors.
        x: [N, C, H, W].
        out: [N, O, oh, ow].
        mask: whether there is one.

    Raises:
        KernelArgumentError: the tensors are too large for indices of 32 bits.
        EnvironmentProblem, KernelError: the kernels cannot be compiled or loaded here.
    """
    capability, multiprocessors = _device()
    batch, channels = x.shape[:2]
    height, width = out.shape[2:]
    taps, pixels = layer.groups * layer.taps, batch * height * width
    x_view, out_view = x.view(dtype), out.view(dtype)
    offset_view = Place((batch, 2 * taps, height, width)).view(dtype)
    mask_view = Place((batch, taps, height, width)).view(dtype)
    if not mask:  # one value serves all pixels
        mask_view = ArrayView(mask_view.shape, (0, 0, 0, 0), dtype)
    sizes = {"batch": batch, "out_height": height, "out_width": width}
    if dtype != "float32" and capability >= 80 and x.last and tensor_serves(layer, dtype, x.shape):
        division = division_for(layer, pixels, multiprocessors)
        assert division is not None  # else `tensor_serves` is false
        variant = tensor_variant(
            layer, dtype, channels, division, sigmoid=False, relu=False, planes=not out.last, blend_fp32=True
        )
        packing = Packing(mma=True, columns=division.tile_n)
        scalars = layout_scalars(x_view, offset_view, mask_view, out_view)
    else:
        tile = tile_for(pixels, layer.filters)
        constants = {name.upper(): value for name, value in tile._asdict().items()}
        vector = can_load_four(layer, x_view)
        variant = PLAIN.variant(T=dtype, SIGMOID=False, RELU=False, VECTOR=vector, **constants)
        packing = Packing(mma=False, columns=tile.filters)
        scalars = plain_scalars(layer, x_view, offset_view, mask_view, out_view)
        sizes["filters"] = layer.filters
    pack_scalars = packing.scalars(layer, channels, dtype)
    pack, convolve = load(packing.variant(dtype)), load(variant)
    count, size = packing.packed(layer, channels, dtype), itemsize(dtype)
    empty = pixels == 0
    return Execution(
        pack,
        pack.launch_config(total=packing.written(layer, channels, dtype)),
        pack_scalars,
        convolve,
        LaunchConfig((1, 1, 1), (1, 1, 1)) if empty else convolve.launch_config(**sizes),
        scalars,
        count * size,
        (count + 1) * size,
        empty,
    )


def workspace_bytes(layer: Layer, channels: int, dtype: str) -> int:
    """Return the workspace of a layer on any GPU and for any number of pixels."""
    packings = [Packing(mma=False, columns=tile.filters) for tile in TILES]
    packings += [Packing(mma=True, columns=columns) for columns in _COLUMNS if dtype != "float32"]
    return max(packing.written(layer, channels, dtype) for packing in packings) * itemsize(dtype)


def _device() -> tuple[int, int]:
    """Return compute capability and number of multiprocessors of the current GPU."""
    import cupy

    device = cupy.cuda.Device()
    return int(device.compute_capability), int(device.attributes["MultiProcessorCount"])
