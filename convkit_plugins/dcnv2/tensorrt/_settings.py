"""The settings of a ``DeformConv`` node as TensorRT hands them to a plugin, and whether shapes fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convkit.errors import PluginError
from convkit_plugins.dcnv2.cuda import Layer

__all__ = ["FIELDS", "INSTEAD", "Settings"]

FIELDS = ("kernel_shape", "strides", "pads", "dilations", "group", "offset_group")
"""The attributes of the node, which are the fields of the plugin."""
INSTEAD = "Use --set dcn=grid-sample or dcn=gather, which need no plugin."
_COUNTS = {"kernel_shape": 2, "strides": 2, "pads": 4, "dilations": 2, "group": 1, "offset_group": 1}
_LEAST = {"pads": 0}


@dataclass(frozen=True)
class Settings:
    """What the attributes of a node say. Pairs are (vertical, horizontal).

    ``pads`` are those above, to the left, below and to the right; the last two only decide the size of the output,
    which the offsets have as well. ``kernel`` is None where the node leaves it to the weight.
    """

    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def from_fields(cls, fields: Mapping[str, Sequence[int]]) -> Settings:
        """Return the settings of a plugin's fields, each a sequence of whole numbers.

        Raises:
            PluginError: a field is none of the operator, or has numbers that the plugin cannot serve.
        """
        read = {name: _numbers(name, values) for name, values in fields.items()}
        if read.get("group", (1,)) != (1,):
            raise _refusal(f"it is a grouped convolution (group={read['group'][0]}), which has no kernel")
        kernel, pads = read.get("kernel_shape"), read.get("pads", (0, 0, 0, 0))
        return cls(
            None if kernel is None else _pair(kernel),
            _pair(read.get("strides", (1, 1))),
            (pads[0], pads[1], pads[2], pads[3]),
            _pair(read.get("dilations", (1, 1))),
            read.get("offset_group", (1,))[0],
        )

    def to_fields(self) -> dict[str, list[int]]:
        """Return the fields; `from_fields` makes the same settings of them."""
        kernel = {} if self.kernel is None else {"kernel_shape": list(self.kernel)}
        return {
            **kernel, "strides": list(self.stride), "pads": list(self.pads), "dilations": list(self.dilation),
            "group": [1], "offset_group": [self.groups],
        }  # fmt: skip

    def layer(self, weight: Sequence[int]) -> Layer:
        """Return the settings in the form of the kernels, for a weight of the shape [O, C, kh, kw]."""
        return Layer(weight[0], (weight[2], weight[3]), self.stride, self.pads[:2], self.dilation, self.groups)

    def check(self, shapes: Sequence[Sequence[int | None]]) -> None:
        """Raise `PluginError` where the shapes of x, weight, offset, bias and mask do not fit; None is any size.

        Bias and mask may be absent, the last first.
        """
        if not 3 <= len(shapes) <= 5:
            raise _refusal(f"it has {len(shapes)} inputs, not x, weight, offset, and perhaps bias and mask")
        x, weight, offset = (tuple(shape) for shape in shapes[:3])
        if any(len(shape) != 4 for shape in (x, weight, offset)):
            raise _refusal(f"x {list(x)}, weight {list(weight)} and offset {list(offset)} have not four axes")
        filters, channels, *kernel = weight
        if any(size is None for size in weight):
            raise _refusal(f"the shape of its weight, {list(weight)}, is not fixed")
        if self.kernel is not None and tuple(kernel) != self.kernel:
            raise _refusal(f"kernel_shape is {list(self.kernel)}, but its weight has {list(weight)}")
        assert channels is not None
        if channels % self.groups:
            raise _refusal(f"{channels} channels cannot be divided into {self.groups} offset groups")
        taps = self.groups * (kernel[0] or 0) * (kernel[1] or 0)
        rows, columns = (self._extent(axis, x[2 + axis], kernel[axis]) for axis in (0, 1))
        expected: dict[str, tuple[int | None, ...]] = {
            "x": (x[0], channels, x[2], x[3]),
            "weight": weight,
            "offset": (x[0], 2 * taps, rows, columns),
            "bias": (filters,),
            "mask": (x[0], taps, rows, columns),
        }
        for (name, wanted), shape in zip(expected.items(), shapes, strict=False):
            if len(shape) != len(wanted) or any(map(_differ, shape, wanted)):
                raise _refusal(f"{name} has the shape {_show(shape)}; {_show(wanted)} fits the others")

    def _extent(self, axis: int, size: int | None, kernel: int | None) -> int | None:
        """Return the size of the output along an axis, None where that of the input is not known."""
        if size is None or kernel is None:
            return None
        room = size + self.pads[axis] + self.pads[axis + 2] - self.dilation[axis] * (kernel - 1) - 1
        return room // self.stride[axis] + 1


def _numbers(name: str, values: Any) -> tuple[int, ...]:
    if name not in _COUNTS:
        raise _refusal(f"DeformConv has no attribute {name!r}")
    numbers = tuple(int(value) for value in values)
    if len(numbers) != _COUNTS[name] or min(numbers) < _LEAST.get(name, 1):
        least = f"of at least {_LEAST.get(name, 1)}"
        raise _refusal(f"{name} is {list(numbers)}; a two-dimensional convolution has {_COUNTS[name]} numbers {least}")
    return numbers


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    return numbers[0], numbers[1]


def _refusal(reason: str) -> PluginError:
    return PluginError(f"{reason}.", hint=INSTEAD)


def _differ(size: int | None, expected: int | None) -> bool:
    return size is not None and expected is not None and size != expected


def _show(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
