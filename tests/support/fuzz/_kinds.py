"""The kinds of steps: which values suit, which settings are drawn, and the type of the result."""

from __future__ import annotations

from collections.abc import Sequence

from support.fuzz._program import Draw, Made, Type, kind

ACTIVATIONS = (
    "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh", "hardswish", "hardsigmoid", "leaky_relu", "elu", "mish",
    "softplus", "relu6", "abs", "square", "root", "decay", "leaky_where", "clamp", "scaled", "negated",
)  # fmt: skip
LEAST = 12
"""An image this large can be shrunk once, and a window of 3 with dilation 2 still fits; inputs are no smaller."""


def _windows(image: Type) -> bool:
    """Return whether an image is surely large enough for a window: shrunk twice at most."""
    return image.image and all(size.count("/") + size.count("-") <= 1 for size in image.sizes)


def _shrunk(size: str, window: int, stride: int, pads: int, dilation: int = 1, *, up: bool = False) -> str:
    cut = dilation * (window - 1) + 1 - pads
    text = size if cut == 1 else f"({size}-{cut - 1})" if cut > 1 else f"({size}+{1 - cut})"
    return text if stride == 1 else f"({text}/{stride}{'up' if up else ''})"


@kind()
def conv(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if not _windows(x):
        return None
    groups = draw.of(1, 1, 1, x.channels)
    settings = {
        "out": groups * draw.whole(1, 6 if groups == 1 else 2), "kernel": (draw.whole(1, 3), draw.whole(1, 3)),
        "stride": (draw.of(1, 1, 2), draw.of(1, 1, 2)), "pad": (draw.whole(0, 1), draw.whole(0, 1)),
        "dilation": (draw.of(1, 1, 2), draw.of(1, 1, 2)), "groups": groups, "bias": draw.flag(), "norm": draw.flag(),
    }  # fmt: skip
    sizes = tuple(
        _shrunk(size, settings["kernel"][axis], settings["stride"][axis], 2 * settings["pad"][axis],
                settings["dilation"][axis]) for axis, size in enumerate(x.sizes)
    )  # fmt: skip
    return settings, Type(settings["out"], sizes)


@kind()
def conv_transpose(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if not _windows(x):
        return None
    groups = draw.of(1, 1, x.channels)
    stride = draw.of(1, 2, 2, 3)
    kernel, pad, extra = draw.whole(2, 4), draw.whole(0, 1), draw.whole(0, stride - 1)
    settings = {
        "out": groups * draw.whole(1, 4 if groups == 1 else 2), "kernel": kernel, "stride": stride, "pad": pad,
        "extra": extra, "groups": groups, "bias": draw.flag(), "norm": draw.flag(),
    }  # fmt: skip
    sizes = tuple(f"({size}*{stride}+{kernel - stride - 2 * pad + extra})" for size in x.sizes)
    return settings, Type(settings["out"], sizes)


@kind()
def deform_conv(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if not _windows(x):
        return None
    kernel, stride, pad = (draw.whole(1, 3), draw.whole(1, 3)), draw.of(1, 1, 2), draw.whole(0, 1)
    settings = {
        "out": draw.whole(1, 5), "kernel": kernel, "stride": stride, "pad": pad, "groups": draw.of(1, x.channels),
        "norm": draw.flag(),
    }  # fmt: skip
    sizes = tuple(_shrunk(size, kernel[axis], stride, 2 * pad) for axis, size in enumerate(x.sizes))
    return settings, Type(settings["out"], sizes)


@kind()
def activation(draw: Draw, given: Sequence[Type]) -> Made | None:
    return {"of": draw.of(*ACTIVATIONS)}, given[0]


@kind()
def norm(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if x.vector:
        return {"of": "layer"}, x
    if not x.image:
        return {"of": draw.of("batch", "instance")}, x
    return {"of": draw.of("batch", "group", "instance")}, x


@kind()
def pool(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if not _windows(x):
        return None
    window, stride = draw.whole(2, 3), draw.whole(1, 2)
    settings = {"of": draw.of("max", "average"), "window": window, "stride": stride, "pad": draw.whole(0, 1)}
    settings |= {"up": draw.flag()} if settings["of"] == "max" else {"count_pad": draw.flag()}
    up = bool(settings.get("up"))
    return settings, Type(
        x.channels, tuple(_shrunk(size, window, stride, 2 * settings["pad"], up=up) for size in x.sizes)
    )


@kind()
def resize(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if not x.image or any(len(size) > 40 for size in x.sizes):
        return None
    mode = draw.of("nearest", "bilinear", "bilinear", "bicubic")
    settings = {"mode": mode, "align": mode != "nearest" and draw.flag()}
    if draw.whole(0, 2) == 0:
        size = draw.whole(LEAST, 18), draw.whole(LEAST, 18)  # a window may follow, and one behind that
        return {**settings, "size": size}, Type(x.channels, tuple(map(str, size)))
    return {**settings, "factor": 2}, Type(x.channels, tuple(f"({size}*2)" for size in x.sizes))


@kind()
def part(draw: Draw, given: Sequence[Type]) -> Made | None:
    """A slice: of the channels, of the borders, every second column, half of the rows, or turned about."""
    (x,) = given
    ways = ["channels"] + (["border", "second", "half", "flipped"] if _windows(x) else [])
    way = draw.of(*ways)
    if way == "channels":
        first = draw.whole(0, x.channels - 1)
        last = draw.whole(first + 1, x.channels)
        return {"of": way, "first": first, "last": last}, Type(last - first, x.sizes)
    height, width = x.sizes
    sizes = {
        "border": (f"({height}-2)", f"({width}-2)"), "second": (height, f"({width}/2up)"),
        "half": (f"({height}/2)", width), "flipped": (height, width),
    }[way]  # fmt: skip
    return {"of": way}, Type(x.channels, sizes)


@kind()
def pad(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if not _windows(x):
        return None
    amounts = tuple(draw.whole(0, 2) for _ in range(4))
    sizes = (f"({x.sizes[0]}+{amounts[2] + amounts[3]})", f"({x.sizes[1]}+{amounts[0] + amounts[1]})")
    return {"amounts": amounts, "mode": draw.of("constant", "reflect", "replicate")}, Type(x.channels, sizes)


@kind()
def turn(draw: Draw, given: Sequence[Type]) -> Made | None:
    """Rearrange: exchange height and width, shuffle channels, move blocks between channels and space, flatten."""
    (x,) = given
    ways = ["flatten", "exchange"] if x.image else []
    ways += ["shuffle"] if x.image and x.channels % 2 == 0 else []
    ways += ["depth_to_space"] if x.image and x.channels % 4 == 0 else []
    if not ways:
        return None
    way = draw.of(*ways)
    height, width = x.sizes
    return {"of": way}, {
        "flatten": Type(x.channels, (f"{height}x{width}",)),
        "exchange": Type(x.channels, (width, height)),
        "shuffle": x,
        "depth_to_space": Type(x.channels // 4, (f"({height}*2)", f"({width}*2)")),
    }[way]


@kind()
def reduction(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if x.vector:
        return None
    way = draw.of("mean_space", "max_space", "mean_channels", "max_channels", "norm_channels", "log_sum_channels")
    return {"of": way}, Type(x.channels, ()) if way.endswith("space") else Type(1, x.sizes)


@kind()
def linear(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    if x.image:
        return None
    out = draw.whole(1, 8)
    return {"out": out, "bias": draw.flag()}, Type(out, x.sizes)


@kind()
def attention(draw: Draw, given: Sequence[Type]) -> Made | None:
    (x,) = given
    return None if x.image or x.vector or "*" in x.sizes[0] else ({"scale": draw.of(0.5, 1.0)}, x)


@kind()
def softmax(draw: Draw, given: Sequence[Type]) -> Made | None:
    return {"dim": draw.of(1, -1) if not given[0].vector else 1}, given[0]


@kind()
def position(draw: Draw, given: Sequence[Type]) -> Made | None:
    """Add what is computed of the sizes: coordinates from 0 to 1, or the number of pixels."""
    (x,) = given
    return ({"of": draw.of("column", "row", "area", "mean_size")}, x) if x.image else None


@kind(2)
def pair(draw: Draw, given: Sequence[Type]) -> Made | None:
    a, b = given
    if a != b:
        return None
    return {"of": draw.of("add", "sub", "mul", "max", "min", "mean")}, a


@kind(2)
def concat(draw: Draw, given: Sequence[Type]) -> Made | None:
    a, b = given
    return ({}, Type(a.channels + b.channels, a.sizes)) if a.sizes == b.sizes else None


@kind(2)
def gate(draw: Draw, given: Sequence[Type]) -> Made | None:
    """Multiply an image by what its channels are worth on the whole, or by an image of one channel."""
    a, b = given
    if a.image and b.vector and b.channels in (1, a.channels):
        return {}, a
    if a.image and b.image and b.channels == 1 and a.sizes == b.sizes:
        return {}, a
    return None
