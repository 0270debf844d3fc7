"""The ONNX translation of the operator: a standard ``DeformConv``, with Sigmoid and Relu around it where asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset19 as op

from convkit.errors import ExportError
from convkit_plugins.dcnv2 import op as _registers_the_operator  # noqa: F401

__all__ = ["FIRST_OPSET", "translations"]

FIRST_OPSET = 19


def translations(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the table for ``torch.onnx.export(custom_translation_table=…)``.

    ``DeformConv`` of opset 22 has the same inputs, attributes and meaning as that of 19, and more dtypes; the emitted
    node is valid under both. It always has a mask, since TensorRT's importer does not supply a correct default.
    """

    def deform_conv2d(
        x: Any,
        weight: Any,
        offset: Any,
        bias: Any,
        mask: Any,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        offset_groups: int,
        sigmoid: bool,
        relu: bool,
    ) -> Any:
        if opset < FIRST_OPSET:
            raise ExportError(
                f"The model contains a deformable convolution, which opset {opset} of ONNX does not have.",
                hint=f"Export with --opset {FIRST_OPSET} or higher.",
            )
        output = op.DeformConv(
            x,
            weight,
            offset,
            bias,
            op.Sigmoid(mask) if sigmoid else mask,
            kernel_shape=list(weight.shape[2:]),
            strides=list(stride),
            pads=[*padding, *padding],
            dilations=list(dilation),
            group=1,
            offset_group=offset_groups,
        )
        return op.Relu(output) if relu else output

    return {torch.ops.convkit.deform_conv2d.default: deform_conv2d}
