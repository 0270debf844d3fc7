"""The attributes of the plugin ``convkit::DCNv2``: the settings of a layer as integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from convkit.errors import PluginError
from convkit_plugins.dcnv2.cuda import Layer

__all__ = ["DOMAIN", "FIELDS", "OP_TYPE", "AotSettings", "WeightOrder"]

DOMAIN = "convkit"
"""The domain of the ONNX operator, and the namespace of the plugin."""
OP_TYPE = "DCNv2"
"""The type of the ONNX node, and the name of the plugin."""
FIELDS = (
    *("channels", "filters", "kernel_height", "kernel_width", "stride_y", "stride_x", "pad_top", "pad_left"),
    *("dilation_y", "dilation_x", "groups", "weight_order", "sigmoid", "relu"),
)
"""The names of the attributes, in their order."""
_LEAST = {"pad_top": 0, "pad_left": 0, "weight_order": 0, "sigmoid": 0, "relu": 0}
_MOST = {"sigmoid": 1, "relu": 1}


class WeightOrder(IntEnum):
    """The order of the weights, which determines the kernel. The number stands in the attribute.

    ``PLAIN`` is for ``plain.cu``, in any type. The others are for ``tensor.cu``: with elements of 16 bits, or of 32
    bits that are rounded to TF32.
    """

    PLAIN = 0
    TENSOR_16 = 2
    TENSOR_TF32 = 4


@dataclass(frozen=True)
class AotSettings:
    """A layer, its input channels, the order of its weights, and what the kernel does besides.

    With ``sigmoid`` the mask input contains logits; with ``relu`` the result passes a ReLU.
    """

    layer: Layer
    channels: int
    order: WeightOrder
    sigmoid: bool = False
    relu: bool = False

    def to_fields(self) -> dict[str, list[int]]:
        """Return the attributes: a list of one integer for each of `FIELDS`.

        That is the form that all bindings read. Those of 10.13 repeat the first number of a longer list under NumPy 2,
        and those before 11 refuse an integer under NumPy 2.4.
        """
        layer = self.layer
        pairs = (*layer.kernel, *layer.stride, *layer.padding, *layer.dilation)
        flags = (int(self.order), int(self.sigmoid), int(self.relu))
        numbers = (self.channels, layer.filters, *pairs, layer.groups, *flags)
        return {name: [number] for name, number in zip(FIELDS, numbers, strict=True)}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> AotSettings:
        """Return the settings of attributes, each a sequence of one integer; others are left alone.

        Raises:
            PluginError: they are not what `to_fields` wrote.
        """
        given = {name: int(fields[name][0]) for name in FIELDS if name in fields and len(fields[name]) == 1}
        wrong = [
            f"{name} is {list(fields[name]) if name in fields else 'missing'}"
            for name in FIELDS
            if name not in given or not _LEAST.get(name, 1) <= given[name] <= _MOST.get(name, 2**31 - 1)
        ]
        if not wrong and given["weight_order"] not in set(WeightOrder):
            wrong = [f"weight_order is {given['weight_order']}"]
        if not wrong and given["channels"] % given["groups"]:
            wrong = [f"{given['channels']} channels cannot be divided into {given['groups']} offset groups"]
        if wrong:
            raise PluginError(
                f"These are no settings of {DOMAIN}::{OP_TYPE}: {wrong[0]}.",
                hint="They are made by `convkit build --set dcn=plugin` of the same version; build again.",
            )
        channels, filters, kh, kw, sy, sx, top, left, dy, dx, groups, order, sigmoid, relu = given.values()
        layer = Layer(filters, (kh, kw), (sy, sx), (top, left), (dy, dx), groups)
        return cls(layer, channels, WeightOrder(order), bool(sigmoid), bool(relu))
