"""Models with ``DeformConv`` on which the ways of the option ``dcn`` are tried on a user's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from convkit import EngineProbe

if TYPE_CHECKING:
    import onnx

__all__ = ["probes"]

_OPSET = 20
_FAR = (3, 40, 0.5, 1)
"""Pixels that offsets reach: near the kernel, far outside the image, between pixels, onto pixels."""


@dataclass(frozen=True)
class _Layer:
    """One DeformConv over [N, channels, height, width]; pairs are (vertical, horizontal)."""

    name: str
    size: tuple[int, int, int]
    filters: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    mask: bool = True
    bias: bool = True

    @property
    def taps(self) -> int:
        return self.groups * self.kernel[0] * self.kernel[1]

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                self.size[1:], self.pad, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return height, width


_REAL = _Layer("layer", (64, 128, 128), 64)
"""The largest deformable layer of CenterNet's resdcn_18 at 512x512."""
_SQUARE = (
    _Layer("plain", (8, 9, 17), 8),
    _Layer("stride", (8, 13, 13), 16, stride=(2, 2)),
    _Layer("dilation", (16, 12, 12), 8, pad=(2, 2), dilation=(2, 2), groups=2),
    _Layer("pointwise", (8, 12, 12), 24, kernel=(1, 1), pad=(0, 0), bias=False),
    _Layer("no-mask", (8, 12, 12), 8, mask=False),
)
_OBLONG = (
    _Layer("oblong-kernel", (8, 12, 14), 8, kernel=(2, 3), pad=(0, 1)),
    _Layer("oblong-stride", (8, 13, 16), 8, pad=(1, 2), stride=(1, 2), dilation=(1, 2)),
    _Layer("odd-channels", (5, 11, 9), 7),
)


def probes() -> list[EngineProbe]:
    """Return a layer of real size, and small ones: equal in both directions, and not."""
    return [
        EngineProbe("dcn-parameters", "dcn", partial(_model, _SQUARE), partial(_inputs, _SQUARE)),
        EngineProbe("dcn-oblong", "dcn", partial(_model, _OBLONG), partial(_inputs, _OBLONG)),
        EngineProbe("dcn-layer", "dcn", partial(_model, (_REAL,)), partial(_inputs, (_REAL,)), (1, 1, 4), timed=True),
    ]


def _model(layers: Sequence[_Layer], dtype: str) -> onnx.ModelProto:
    """Return one graph with a DeformConv for each layer, which share nothing."""
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, inputs, outputs, weights = [], [], [], []
    for number, layer in enumerate(layers):
        generator = np.random.default_rng(number)
        height, width = layer.out
        shapes: dict[str, tuple[int, ...]] = {"x": layer.size, "offset": (2 * layer.taps, height, width)}
        if layer.mask:
            shapes["mask"] = (layer.taps, height, width)
        fan_in = layer.size[0] * layer.kernel[0] * layer.kernel[1]
        parameters: dict[str, tuple[int, ...]] = {"weight": (layer.filters, layer.size[0], *layer.kernel)}
        if layer.bias:
            parameters["bias"] = (layer.filters,)
        for role, shape in parameters.items():
            values = generator.standard_normal(shape) / (np.sqrt(fan_in) if role == "weight" else 1)
            weights.append(_initializer(f"{layer.name}.{role}", values.astype(np.float16).astype(dtype)))
        inputs += [
            helper.make_tensor_value_info(f"{layer.name}.{role}", kind, ["batch", *shape])
            for role, shape in shapes.items()
        ]
        present = {*shapes, *parameters}
        roles = ("x", "weight", "offset", "bias", "mask")
        nodes.append(
            helper.make_node(
                "DeformConv",
                [f"{layer.name}.{role}" if role in present else "" for role in roles],
                [f"{layer.name}.y"],
                name=layer.name,
                kernel_shape=layer.kernel,
                strides=layer.stride,
                pads=(*layer.pad, *layer.pad),
                dilations=layer.dilation,
                offset_group=layer.groups,
            )
        )
        outputs.append(helper.make_tensor_value_info(f"{layer.name}.y", kind, ["batch", layer.filters, height, width]))
    graph = helper.make_graph(nodes, "dcn", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)


def _initializer(name: str, values: np.ndarray) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(values, name)


def _inputs(layers: Sequence[_Layer], batch: int) -> Mapping[str, np.ndarray]:
    """Return random features, masks within 0 and 1, and offsets whose reach differs from point to point."""
    values = {}
    for number, layer in enumerate(layers):
        generator = np.random.default_rng(100 + number)
        points = (batch, 2 * layer.taps, *layer.out)
        offsets = generator.standard_normal(points) * generator.choice(_FAR, points)
        offsets = np.where(generator.random(points) < 0.25, np.round(offsets), offsets)
        values[f"{layer.name}.x"] = generator.standard_normal((batch, *layer.size))
        values[f"{layer.name}.offset"] = offsets
        if layer.mask:
            values[f"{layer.name}.mask"] = generator.random((batch, layer.taps, *layer.out))
    return {name: array.astype(np.float16).astype(np.float32) for name, array in values.items()}
