"""Layers of the ahead-of-time plugin ``convkit::DCNv2``: their drive over the stand-in, inputs, and definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from support.deform_definition import deform_conv2d_by_loops
from support.tensorrt_drive import Input, Job
from torch import Tensor

from convkit_plugins.dcnv2.cuda import Layer
from convkit_plugins.dcnv2.tensorrt import AotSettings, WeightOrder, pack, packed_size

TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
"""TensorRT's names of the types."""
PRELOAD = ("convkit_plugins.dcnv2.tensorrt._aot",)
"""What a process imports before it drives one job after the other."""
SETUP = """
import tensorrt_bindings
from convkit_plugins.dcnv2.tensorrt import register_aot

class Noted(list):
    def append(self, text):
        print("NOTED", text.replace("\\n", " "), flush=True)

alive = register_aot(tensorrt_bindings, Noted())
assert register_aot(tensorrt_bindings, []) is alive
"""
"""Registers the plugin, twice; what it notes of its failures is printed."""


@dataclass(frozen=True)
class AotLayer:
    """A layer and the sizes (batch, height, width) that it is launched with; they vary between the first and last."""

    layer: Layer
    channels: int
    dtype: str = "float16"
    order: WeightOrder = WeightOrder.TENSOR_16
    sigmoid: bool = False
    relu: bool = False
    sizes: tuple[tuple[int, int, int], ...] = ((1, 8, 8), (2, 19, 23), (8, 64, 64))
    below: tuple[int, int] = (0, 0)
    """Padding below and to the right, beyond that above and to the left."""

    @property
    def settings(self) -> AotSettings:
        """What the attributes say."""
        return AotSettings(self.layer, self.channels, self.order, self.sigmoid, self.relu)

    def extents(self, batch: int, height: int, width: int) -> dict[str, int]:
        """The sizes by the names of the launch."""
        layer, out = self.layer, []
        for axis, size in enumerate((height, width)):
            room = size + 2 * layer.padding[axis] + self.below[axis] - layer.dilation[axis] * (layer.kernel[axis] - 1)
            out.append((room - 1) // layer.stride[axis] + 1)
        return {"batch": batch, "height": height, "width": width, "out_height": out[0], "out_width": out[1]}

    def shapes(self, batch: int, height: int, width: int) -> list[tuple[int, ...]]:
        """The shapes of the inputs."""
        sizes, taps = self.extents(batch, height, width), self.layer.groups * self.layer.taps
        plane = (sizes["out_height"], sizes["out_width"])
        image = (batch, self.channels, height, width)
        return [image, (batch, 2 * taps, *plane), (batch, taps, *plane), (packed_size(self.settings),),
                (self.layer.filters,)]  # fmt: skip

    def job(self, setup: str = SETUP, **changed: Any) -> Job:
        """The drive of the plugin with all sizes as cases."""
        cases = [self.shapes(*size) for size in self.sizes]
        inputs = []
        for shapes in zip(*cases, strict=True):
            dims = tuple(-1 if len(set(sizes)) > 1 else sizes[0] for sizes in zip(*shapes, strict=True))
            inputs.append(Input(TYPES[self.dtype], dims, shapes[0], shapes[len(shapes) // 2], shapes[-1]))
        fields = {name: np.array(value, np.int32) for name, value in self.settings.to_fields().items()}
        whole = {"name": "DCNv2", "namespace": "convkit", "inputs": inputs, "fields": fields, "cases": cases}
        return Job(setup, **{**whole, **changed})

    def tensors(self, size: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
        """Inputs by name with the weights as they are, results of the order of one; some taps are far outside."""
        generator = torch.Generator().manual_seed(seed)
        sizes, taps = self.extents(*size), self.layer.groups * self.layer.taps
        plane = (sizes["out_height"], sizes["out_width"])

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        offset = normal(size[0], 2 * taps, *plane) * 2
        chosen = torch.rand(offset.shape, generator=generator) < 0.1
        special = torch.tensor([-1e4, -1.0, -0.5, 0.0, 1.0, 1e4], dtype=torch.float64)
        offset[chosen] = special[torch.randint(6, (int(chosen.sum()),), generator=generator)]
        weight = normal(self.layer.filters, self.channels, *self.layer.kernel)
        values = {
            "x": normal(size[0], self.channels, *size[1:]),
            "offset": offset,
            "mask": normal(size[0], taps, *plane),
            "weight": weight / (self.channels * self.layer.taps) ** 0.5,
            "bias": normal(self.layer.filters),
        }
        return {name: value.to(getattr(torch, self.dtype)) for name, value in values.items()}

    def packed(self, weight: Tensor) -> Tensor:
        """The weights in the order of the kernel."""
        if weight.dtype == torch.bfloat16:
            bits = pack(weight.view(torch.int16).numpy(), self.settings)
            return torch.from_numpy(bits).view(torch.bfloat16)
        return torch.from_numpy(pack(weight.numpy(), self.settings))

    def definition(self, tensors: Mapping[str, Tensor]) -> np.ndarray:
        """The result in float64, by loops."""
        values = {name: tensor.double() for name, tensor in tensors.items()}
        mask = values["mask"].sigmoid() if self.sigmoid else values["mask"]
        ordered = (values["x"], values["weight"], values["offset"], values["bias"], mask)
        layer = self.layer
        settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
        result = deform_conv2d_by_loops(*(value.numpy() for value in ordered), *settings)
        return np.maximum(result, 0) if self.relu else result


SQUARE = Layer(64, (3, 3), (1, 1), (1, 1))
LAYERS = {
    "float16": AotLayer(SQUARE, 64),
    "all filters of a large layer": AotLayer(Layer(256, (3, 3), (1, 1), (1, 1)), 128, relu=True, sigmoid=True),
    "bfloat16": AotLayer(Layer(40, (3, 3), (2, 2), (1, 1)), 72, "bfloat16", sigmoid=True),
    "TF32": AotLayer(Layer(36, (3, 3), (1, 1), (1, 1)), 20, "float32", WeightOrder.TENSOR_TF32, relu=True),
    "unequal": AotLayer(Layer(72, (2, 3), (2, 1), (1, 0), (1, 2), 2), 32, below=(1, 2)),
    "one filter, one tap": AotLayer(Layer(1, (1, 1)), 8),
    "float32": AotLayer(SQUARE, 64, "float32", WeightOrder.PLAIN, sigmoid=True),
    "float32, odd": AotLayer(Layer(70, (3, 2), (1, 2), (0, 1), (2, 1), 3), 21, "float32", WeightOrder.PLAIN, relu=True),
    "float16, odd": AotLayer(Layer(9, (3, 3), (1, 1), (1, 1)), 13, "float16", WeightOrder.PLAIN),
    "bfloat16, in groups of 4": AotLayer(
        Layer(48, (3, 3), (1, 1), (1, 1), (1, 1), 2), 8, "bfloat16", WeightOrder.PLAIN
    ),
}
"""Every kernel in every type."""
