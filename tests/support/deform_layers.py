"""Graphs of one ``DeformConv``, and inputs whose samples lie on borders, far outside and at infinity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from support.deform_definition import deform_conv2d_by_loops

Pair = tuple[int, int]


@dataclass(frozen=True)
class DeformLayer:
    """One layer and the sizes it is run at; ``dynamic`` names the axes without fixed size (n, h, w)."""

    batch: int = 2
    channels: int = 4
    filters: int = 6
    size: Pair = (7, 9)
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: Pair = (1, 1)
    group: int = 1
    offset_group: int = 1
    mask: bool = True
    bias: bool = True
    dynamic: str = ""
    dtype: type[np.floating[Any]] = np.float32
    opset: int = 20

    @property
    def output_size(self) -> Pair:
        """Height and width of the result."""
        height, width = (
            (
                self.size[axis]
                + self.pads[axis]
                + self.pads[axis + 2]
                - self.dilation[axis] * (self.kernel[axis] - 1)
                - 1
            )
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        )
        return height, width

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Weight and, if there is one, bias."""
        random = np.random.default_rng(1)
        shape = (self.filters, self.channels // self.group, *self.kernel)
        weight = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        bias = {"bias": random.standard_normal(self.filters).astype(self.dtype)} if self.bias else {}
        return {"weight": weight.astype(self.dtype), **bias}

    def model(self, name: str = "dcn") -> onnx.ModelProto:
        """Return the checked graph of inputs ``x``, ``offset`` and maybe ``mask``, output ``y``."""
        taps = self.offset_group * self.kernel[0] * self.kernel[1]
        free = dict(zip("nhw", ("batch", "height", "width"), strict=True))
        batch, height, width = (
            free[axis] if axis in self.dynamic else size
            for axis, size in zip("nhw", (self.batch, *self.size), strict=True)
        )
        out = [
            f"out_{axis}" if axis in self.dynamic else size for axis, size in zip("hw", self.output_size, strict=True)
        ]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        shapes = {"x": [batch, self.channels, height, width], "offset": [batch, 2 * taps, *out]}
        if self.mask:
            shapes["mask"] = [batch, taps, *out]
        arguments = ["x", "weight", "offset", "bias" if self.bias else "", "mask" if self.mask else ""]
        while not arguments[-1]:
            arguments.pop()
        node = helper.make_node(
            "DeformConv",
            arguments,
            ["y"],
            name=name,
            kernel_shape=self.kernel,
            strides=self.stride,
            pads=self.pads,
            dilations=self.dilation,
            group=self.group,
            offset_group=self.offset_group,
        )
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info(key, kind, shape) for key, shape in shapes.items()],
            [helper.make_tensor_value_info("y", kind, [batch, self.filters, *out])],
            [numpy_helper.from_array(value, key) for key, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model

    def feeds(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Return inputs; each second sample is on a pixel, on a border or outside, some far or infinite."""
        random = np.random.default_rng(seed)
        taps = self.kernel[0] * self.kernel[1]
        shape = (self.batch, self.offset_group, taps, 2, *self.output_size)
        offset = random.standard_normal(shape) * 2
        for axis in (0, 1):
            extent = self.size[axis]
            special = [
                -1e6,
                -2,
                -1,
                -0.5,
                0,
                extent // 2,
                extent - 1,
                extent - 0.5,
                extent,
                extent + 1,
                1e6,
                -np.inf,
                np.inf,
            ]
            target = random.choice(special, shape[:3] + shape[4:])
            chosen = random.random(target.shape) < 1 / 3
            offset[:, :, :, axis][chosen] = (target - self._centres(axis))[chosen]
        feeds = {
            "x": random.standard_normal((self.batch, self.channels, *self.size)),
            "offset": offset.reshape(self.batch, -1, *self.output_size),
        }
        if self.mask:
            feeds["mask"] = random.random((self.batch, self.offset_group * taps, *self.output_size))
        with np.errstate(over="ignore"):  # 1e6 is infinite in float16
            return {key: value.astype(self.dtype) for key, value in feeds.items()}

    def _centres(self, axis: int) -> np.ndarray:
        """Return the coordinate of each sample without displacement, [taps, height, width]."""
        index = np.indices((*self.kernel, *self.output_size))
        place = index[2 + axis] * self.stride[axis] - self.pads[axis] + index[axis] * self.dilation[axis]
        return place.reshape(-1, *self.output_size)

    def by_definition(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the result in float64 by loops over the definition."""
        per_group, rows = self.channels // self.group, self.filters // self.group
        weight = np.zeros((self.filters, self.channels, *self.kernel))
        for group in range(self.group):
            some = slice(group * rows, (group + 1) * rows)
            weight[some, group * per_group : (group + 1) * per_group] = self.constants["weight"][some]
        ones = np.ones_like(feeds["offset"][:, ::2])
        bias = self.constants.get("bias", np.zeros(self.filters))
        return deform_conv2d_by_loops(
            feeds["x"],
            weight,
            feeds["offset"],
            bias,
            feeds.get("mask", ones),
            self.stride,
            self.pads[:2],
            self.dilation,
            self.offset_group,
        )
