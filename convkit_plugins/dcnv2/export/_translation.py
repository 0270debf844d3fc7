"""What the ONNX exporter emits for the operator: one standard ``DeformConv``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset19 as op

from convkit.errors import ExportError
from convkit_plugins.dcnv2.op import _op as _registers_the_operator  # noqa: F401

__all__ = ["FIRST_OPSET", "translations"]

FIRST_OPSET = 19


def translations(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the table for ``torch.onnx.export(custom_translation_table=…)``.

    ``DeformConv`` of opset 22 has the same inputs, attributes and meaning as that of 19, and more
    dtypes; the node that is emitted is valid under both. The mask is always there: TensorRT's
    importer does not make the right one up.
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
    ) -> Any:
        if opset < FIRST_OPSET:
            raise ExportError(
                f"The model holds a deformable convolution, which opset {opset} of ONNX does not have.",
                hint=f"Export with --opset {FIRST_OPSET} or higher.",
            )
        return op.DeformConv(
            x,
            weight,
            offset,
            bias,
            mask,
            kernel_shape=list(weight.shape[2:]),
            strides=list(stride),
            pads=[*padding, *padding],
            dilations=list(dilation),
            group=1,
            offset_group=offset_groups,
        )

    return {torch.ops.convkit.deform_conv2d.default: deform_conv2d}
