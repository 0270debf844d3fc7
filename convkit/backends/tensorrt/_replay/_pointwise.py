"""Layers that work on one element at a time: elementwise, unary, activation, scale, select, cast."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from convkit.backends.tensorrt._replay._call import LayerCall, replays

__all__: list[str] = []

Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Unary = Callable[[torch.Tensor], torch.Tensor]


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Divide; integers as C++ does, towards zero, and by zero to zero."""
    if a.is_floating_point():
        return a / b
    return torch.where(b == 0, torch.zeros_like(a), torch.div(a, torch.where(b == 0, 1, b), rounding_mode="trunc"))


def _floor_divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.is_floating_point():
        return torch.floor(a / b)
    return torch.where(b == 0, torch.zeros_like(a), torch.div(a, torch.where(b == 0, 1, b), rounding_mode="floor"))


def _power(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Raise to a power; integers by way of float64, since exponents may be negative."""
    return torch.pow(a, b) if a.is_floating_point() else torch.pow(a.double(), b.double()).to(a.dtype)


_BINARY: dict[str, Binary] = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "SUB": torch.sub,
    "DIV": _divide,
    "POW": _power,
    "FLOOR_DIV": _floor_divide,
    "AND": torch.logical_and,
    "OR": torch.logical_or,
    "XOR": torch.logical_xor,
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}


@replays("ELEMENTWISE")
def elementwise(call: LayerCall) -> torch.Tensor:
    """Combine two tensors of one rank, whose dimensions of 1 are stretched."""
    return _BINARY[call.attribute("op")](call.x, call.tensor(1))


_UNARY: dict[str, Unary] = {
    "EXP": torch.exp,
    "LOG": torch.log,
    "SQRT": torch.sqrt,
    "RECIP": torch.reciprocal,
    "ABS": torch.abs,
    "NEG": torch.neg,
    "SIN": torch.sin,
    "COS": torch.cos,
    "TAN": torch.tan,
    "SINH": torch.sinh,
    "COSH": torch.cosh,
    "ASIN": torch.asin,
    "ACOS": torch.acos,
    "ATAN": torch.atan,
    "ASINH": torch.asinh,
    "ACOSH": torch.acosh,
    "ATANH": torch.atanh,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ERF": torch.erf,
    "NOT": torch.logical_not,
    "SIGN": torch.sign,
    "ROUND": torch.round,
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}


@replays("UNARY")
def unary(call: LayerCall) -> torch.Tensor:
    """Apply a function; ROUND takes halves to the even neighbour."""
    return _UNARY[call.attribute("op")](call.x)


_ACTIVATIONS: dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]] = {
    "RELU": lambda x, a, b: torch.relu(x),
    "SIGMOID": lambda x, a, b: torch.sigmoid(x),
    "TANH": lambda x, a, b: torch.tanh(x),
    "LEAKY_RELU": lambda x, a, b: torch.where(x >= 0, x, a * x),
    "ELU": lambda x, a, b: torch.where(x >= 0, x, a * torch.expm1(x)),
    "SELU": lambda x, a, b: torch.where(x > 0, b * x, b * a * torch.expm1(x)),
    "SOFTSIGN": lambda x, a, b: x / (1 + x.abs()),
    "SOFTPLUS": lambda x, a, b: a * torch.logaddexp(b * x, torch.zeros_like(x)),
    "CLIP": lambda x, a, b: torch.clamp(torch.clamp(x, max=b), min=a),
    "HARD_SIGMOID": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "SCALED_TANH": lambda x, a, b: a * torch.tanh(b * x),
    "THRESHOLDED_RELU": lambda x, a, b: torch.where(x > a, x, torch.zeros_like(x)),
    "GELU_ERF": lambda x, a, b: 0.5 * x * (1 + torch.erf(math.sqrt(0.5) * x)),
    "GELU_TANH": lambda x, a, b: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (0.044715 * x**3 + x))),
}
"""x, alpha and beta to the result."""


@replays("ACTIVATION")
def activation(call: LayerCall) -> torch.Tensor:
    """Apply an activation with its alpha and beta."""
    return _ACTIVATIONS[call.attribute("type")](call.x, call.attribute("alpha"), call.attribute("beta"))


@replays("PARAMETRIC_RELU")
def parametric_relu(call: LayerCall) -> torch.Tensor:
    """x where it is not negative, else slope * x."""
    return torch.where(call.x >= 0, call.x, call.tensor(1) * call.x)


@replays("SCALE")
def scale(call: LayerCall) -> torch.Tensor:
    """(x * scale + shift) ** power, one coefficient for all, a channel or an element; those left out are 1, 0 and 1."""
    shape = {
        "UNIFORM": [1] * call.x.ndim,
        "CHANNEL": [size if axis == call.attribute("channel_axis") else 1 for axis, size in enumerate(call.x.shape)],
        "ELEMENTWISE": [1, *call.x.shape[1:]],
    }[call.attribute("mode")]
    factor, shift, power = (call.weights(name) for name in ("scale", "shift", "power"))
    result = call.x
    if factor is not None:
        result = result * factor.reshape(shape)
    if shift is not None:
        result = result + shift.reshape(shape)
    return result if power is None else result ** power.reshape(shape)


@replays("SELECT")
def select(call: LayerCall) -> torch.Tensor:
    """The second input where the first is true, else the third."""
    return torch.where(call.x, call.tensor(1), call.tensor(2))


@replays("IDENTITY", "CONDITIONAL_INPUT", "ASSERTION")
def identity(call: LayerCall) -> torch.Tensor:
    """The input."""
    return call.x if call.results else torch.empty(0)


_RANGES = {"INT4": (-8, 7), "INT8": (-128, 127), "UINT8": (0, 255)}
_LIMITS = {"FP8": 448.0, "FP4": 6.0}
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@replays("CAST")
def cast(call: LayerCall) -> torch.Tensor:
    """Convert: floating values to integers towards zero, anything but zero to true."""
    name = call.results[0].dtype
    if name in _LIMITS:
        return round_to(name, call.x)
    if call.x.is_floating_point() and name in ("INT8", "UINT8", "INT32", "INT64"):
        return torch.trunc(call.x).to(torch.int64).to(call.dtype)
    if name == "INT4":
        wrapped = torch.trunc(call.x).to(torch.int64) & 15
        return torch.where(wrapped > 7, wrapped - 16, wrapped).to(torch.int8)
    return call.x != 0 if name == "BOOL" else call.x.to(call.dtype)


def round_to(name: str, values: torch.Tensor) -> torch.Tensor:
    """Return values rounded to the nearest that a type of quantisation has, ties to even, limited to its range.

    What is no number becomes 6 in FP4, which has no other; so do the instructions of NVIDIA's GPUs.
    """
    if name in _RANGES:
        low, high = _RANGES[name]
        return torch.clamp(torch.round(values), low, high).to(torch.uint8 if low == 0 else torch.int8)
    limit = _LIMITS[name]
    limited = torch.clamp(values.float(), -limit, limit)
    if name == "FP8":
        return limited.to(torch.float8_e4m3fn).float()
    limited = torch.nan_to_num(limited, nan=limit)
    grid = torch.tensor(_FP4)
    magnitude = limited.abs()
    above = torch.bucketize(magnitude, grid).clamp(1, len(_FP4) - 1)
    below, next_up = grid[above - 1], grid[above]
    middle = (below + next_up) / 2
    upper = (magnitude > middle) | ((magnitude == middle) & (above % 2 == 0))
    return torch.copysign(torch.where(upper, next_up, below), limited)
