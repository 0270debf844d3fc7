"""The plain kernel of the operator on the host, against the definition in float64."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.deform_definition import deform_conv2d_by_loops
from support.every_case import EVERY_CASE, covering

from convkit.cuda import ArrayView
from convkit.errors import KernelArgumentError
from convkit.testing.cuda_host import run_on_host
from convkit_plugins.dcnv2.cuda import (
    PLAIN,
    TILES,
    Layer,
    Tile,
    can_load_four,
    pack_for_plain,
    plain_scalars,
    tile_for,
)  # fmt: skip
from convkit_plugins.dcnv2.op import compute

BOUNDS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A layer, the sizes of its tensors, and how they lie in memory."""

    layer: Layer
    batch: int
    channels: int
    height: int
    width: int
    more: tuple[int, int] = (0, 0)  # rows and columns of padding that are behind the image only
    dtype: str = "float32"
    last: tuple[bool, bool, bool] = (False, False, False)  # channels-last: x, the raw offsets and masks, out
    sigmoid: bool = True
    relu: bool = False
    tile: Tile = TILES[0]
    wild: float = 2.0  # standard deviation of the offsets
    seed: int = 0
    special: tuple[float, ...] = ()  # offsets that are strewn among the others
    out_strides: tuple[int, int, int, int] | None = None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def out_size(self) -> tuple[int, int]:
        layer = self.layer
        sizes = zip((self.height, self.width), layer.kernel, layer.stride, layer.padding, layer.dilation, self.more)  # noqa: B905
        height, width = ((size + 2 * p + more - d * (k - 1) - 1) // s + 1 for size, k, s, p, d, more in sizes)
        return height, width

    def inputs(self) -> dict[str, np.ndarray]:
        """x, raw [N, 3 G K, oh, ow], weight and bias in float64, rounded to the dtype."""
        generator = np.random.default_rng(self.seed)
        taps = self.layer.groups * self.layer.kernel[0] * self.layer.kernel[1]
        normal = generator.standard_normal
        raw = normal((self.batch, 3 * taps, *self.out_size))
        raw[:, : 2 * taps] *= self.wild
        if self.special:
            chosen = generator.random((self.batch, 2 * taps, *self.out_size)) < 0.3
            raw[:, : 2 * taps][chosen] = generator.choice(self.special, int(chosen.sum()))
        values = {
            "x": normal((self.batch, self.channels, self.height, self.width)),
            "raw": raw,
            "weight": normal((self.layer.filters, self.channels, *self.layer.kernel)),
            "bias": normal(self.layer.filters),
        }
        values.update(self.arrays)
        return {name: rounded(value, self.dtype) for name, value in values.items()}


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    return torch.from_numpy(values).to(TORCH[dtype]).double().numpy()


def stored(values: np.ndarray, dtype: str, last: bool = False) -> np.ndarray:
    """The values as an array in memory, flat; bfloat16 as its bits."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(TORCH[dtype])
    if last:
        tensor = tensor.permute(0, 2, 3, 1)
    tensor = tensor.contiguous().flatten()
    return (tensor.view(torch.uint16) if dtype == "bfloat16" else tensor).numpy().copy()


def layout(
    shape: tuple[int, ...], last: bool, channels: int = 0, *, address: int = 0, dtype: str = "float32"
) -> ArrayView:
    """The view of a tensor, or of some channels of one that has ``channels``."""
    _, count, height, width = shape
    count = channels or count
    strides = (
        (count * height * width, 1, width * count, count)
        if last
        else (count * height * width, height * width, width, 1)
    )
    return ArrayView(tuple(shape), strides, dtype, address)


def on_host(case: Case, **options: Any) -> np.ndarray:
    """[N, O, oh, ow] in float64, as the kernel computes it."""
    values, layer, dtype = case.inputs(), case.layer, case.dtype
    taps = layer.groups * layer.kernel[0] * layer.kernel[1]
    spatial = case.out_size
    x = layout(values["x"].shape, case.last[0], dtype=dtype)
    offset = layout((case.batch, 2 * taps, *spatial), case.last[1], 3 * taps)
    mask = layout((case.batch, taps, *spatial), case.last[1], 3 * taps)
    out = layout((case.batch, layer.filters, *spatial), case.last[2])
    out = replace(out, strides=case.out_strides or out.strides)
    raw = stored(values["raw"], dtype, case.last[1])
    four = can_load_four(layer, x)
    constants = {name.upper(): value for name, value in case.tile._asdict().items()}
    variant = PLAIN.variant(T=dtype, SIGMOID=case.sigmoid, RELU=case.relu, VECTOR=four, **constants)
    packed = pack_for_plain(torch.from_numpy(values["weight"]).to(TORCH[dtype]), layer.groups, case.tile.filters)
    weight = (packed.view(torch.uint16) if dtype == "bfloat16" else packed).numpy()
    size = sum((count - 1) * stride for count, stride in zip(out.shape, out.strides, strict=True)) + 1
    memory = stored(np.full(size, np.nan), dtype)
    tensors = (stored(values["x"], dtype, case.last[0]), raw, raw[2 * taps * offset.strides[1] :], weight)
    config = variant.launch_config(batch=case.batch, filters=layer.filters, out_height=spatial[0], out_width=spatial[1])
    args = (*tensors, stored(values["bias"], dtype), memory, *plain_scalars(layer, x, offset, mask, out))
    run_on_host(variant, config, args, **options)
    written = torch.from_numpy(memory).view(TORCH[dtype]).double()
    result = written.as_strided(out.shape, out.strides).clone()
    written.as_strided(out.shape, out.strides).fill_(torch.nan)
    assert written.isnan().all(), "something beside the output was written"
    return result.numpy()


def by_definition(case: Case, fast: bool = False) -> np.ndarray:
    values, layer = case.inputs(), case.layer
    taps = layer.groups * layer.kernel[0] * layer.kernel[1]
    offset, mask = values["raw"][:, : 2 * taps], values["raw"][:, 2 * taps :]
    if case.sigmoid:
        mask = 1 / (1 + np.exp(-mask))
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    arrays = (values["x"], values["weight"], offset, values["bias"], mask)
    if fast:
        result = compute(*(torch.from_numpy(array) for array in arrays), *settings).numpy()
    else:
        with np.errstate(invalid="ignore"):
            result = deform_conv2d_by_loops(*arrays, *settings)
    return np.maximum(result, 0) if case.relu else result


def check(case: Case, fast: bool = False, **options: Any) -> None:
    result, expected = on_host(case, **options), by_definition(case, fast)
    error = np.linalg.norm(result - expected) / max(np.linalg.norm(expected), 1e-30)
    assert error < BOUNDS[case.dtype]


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
BUILDS = covering(
    [{"dtype": dtype, "relu": relu, "tile": tile} for dtype in BOUNDS for relu in (False, True) for tile in TILES[-2:]],
    lambda build: build,
)
"""What is compiled; each twice, with and without loads of four channels."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    groups = draw(st.integers(1, 3))
    channels = groups * draw(st.sampled_from([1, 2, 4, 7, 8, 17]))
    kernel, stride, dilation = draw(pairs), draw(pairs), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    layer = Layer(draw(st.sampled_from([1, 3, 4, 8, 33])), kernel, stride, padding, dilation, groups)
    booleans, build = st.booleans(), draw(st.sampled_from(BUILDS))
    return Case(
        layer,
        batch=draw(st.integers(1, 2)),
        channels=channels,
        height=least[0] + draw(st.integers(0, 4)),
        width=least[1] + draw(st.integers(0, 4)),
        more=draw(st.tuples(st.integers(0, 1), st.integers(0, 1))),
        **build,
        last=draw(st.tuples(booleans, booleans, booleans)),
        sigmoid=not build["relu"],
        wild=draw(st.sampled_from([0.0, 0.5, 3.0, 100.0])),
        seed=draw(st.integers(0, 99)),
        special=draw(
            st.sampled_from([(), (-1.0, 0.0, 1.0, 0.5, -0.5, 2.0, -1e-9), (np.nan, np.inf, -np.inf, 1e30, -6e4, 0.25)])
        ),
    )


@settings(max_examples=120 if EVERY_CASE else 40)
@given(case=cases(), guard=st.sampled_from(["end", "start"]), order=st.sampled_from(["forward", "reverse", 1]))
@example(case=Case(Layer(4, (1, 1)), 1, 4, 1, 1, wild=0.0), guard="end", order="forward")
def test_agrees_with_the_definition(case: Case, guard: Any, order: Any) -> None:
    check(case, guard=guard, order=order)


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: "x".join(map(str, tile)))
@pytest.mark.parametrize("last", [False, True])
def test_every_tile_covers_several_blocks(tile: Tile, last: bool) -> None:
    """More filters and pixels than one block has, tails in both, three chunks of channels in each of two groups."""
    layer = Layer(tile.filters + 12, (3, 3), padding=(1, 1), groups=2)
    check(Case(layer, 3, 2 * 36, 7, 9, last=(last,) * 3, tile=tile), fast=True, guard=True)


def test_has_no_races() -> None:
    layer = Layer(35, (3, 3), padding=(1, 1), groups=2)
    check(Case(layer, 1, 2 * 36, 7, 9, tile=TILES[-1]), fast=True, races=True)


@pytest.mark.parametrize("last", [False, True])
def test_outputs_are_written_four_at_a_time_where_they_are_aligned(last: bool) -> None:
    check(Case(Layer(68, (1, 1)), 2, 5, 8, 10, last=(False, False, last), dtype="float16"), fast=True, guard="start")


@pytest.mark.parametrize(
    ("filters", "size", "strides"),
    [
        (6, (3, 4), (96, 1, 32, 8)),  # the first filters of eight, channels-last
        (8, (3, 4), (97, 1, 32, 8)),  # an image that is not aligned
        (3, (5, 5), (84, 28, 5, 1)),  # planes with a gap behind them
        (3, (2, 6), (40, 13, 6, 1)),
        (3, (2, 6), (72, 24, 12, 2)),  # every second element
        (4, (2, 6), (72, 1, 36, 6)),
    ],
)
def test_outputs_may_lie_apart(filters: int, size: tuple[int, int], strides: tuple[int, int, int, int]) -> None:
    """With the guard before them, arrays begin at a page: only strides forbid to write four at a time."""
    check(Case(Layer(filters, (1, 1)), 2, 5, *size, tile=TILES[-1], out_strides=strides), guard="start")


@pytest.mark.parametrize(("offset", "reached"), [(-1.0, False), (-0.999, True), (2.0, False), (1.999, True)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_tap_a_whole_pixel_outside_reads_nothing(axis: int, offset: float, reached: bool) -> None:
    raw = np.zeros((1, 3, 1, 1))
    raw[0, axis] = offset
    case = Case(Layer(1, (1, 1)), 1, 1, 2, 2, more=(-1, -1), arrays={"x": np.full((1, 1, 2, 2), np.nan), "raw": raw})
    assert np.isnan(on_host(case)).all() == reached


def test_positions_keep_their_fraction_far_from_the_origin() -> None:
    """At column 70 000 a float32 position is a multiple of 1/128; the fraction of the offset must not be."""
    layer = Layer(4, (1, 1))
    raw = np.full((1, 3, 1, 70_000), 0.0)
    raw[:, 1] = 0.3 + 1e-4
    case = Case(layer, 1, 1, 1, 70_000, arrays={"raw": raw}, sigmoid=False)
    raw[:, 2] = 1.0
    check(case, fast=True)


def test_pixels_that_are_not_finite_reach_only_the_taps_that_touch_them() -> None:
    x = np.ones((1, 1, 3, 3))
    x[0, 0, 1, 1] = np.inf
    raw = np.zeros((1, 3, 3, 3))
    raw[0, 1] = [[-1.5, 0, 0], [0, 0, 0], [9, 0, 5]]
    case = Case(Layer(1, (1, 1)), 1, 1, 3, 3, arrays={"x": x, "raw": raw, "weight": np.ones((1, 1, 1, 1))})
    finite = np.isfinite(on_host(case)[0, 0])
    np.testing.assert_array_equal(finite, [[True, False, True], [False, False, True], [True, True, True]])
    np.testing.assert_array_equal(finite, np.isfinite(by_definition(case)[0, 0]))


def test_not_a_number_is_kept_by_relu() -> None:
    case = Case(Layer(1, (1, 1)), 1, 1, 1, 1, relu=True, wild=0.0, arrays={"bias": np.array([np.nan])})
    assert np.isnan(on_host(case)).all()


def test_four_channels_are_loaded_at_once_only_where_that_is_aligned() -> None:
    shape = (2, 8, 5, 7)
    one = Layer(1, (1, 1))
    assert can_load_four(Layer(1, (1, 1), groups=2), layout(shape, True, address=64))
    assert not can_load_four(Layer(1, (1, 1), groups=4), layout(shape, True, address=64))
    assert not can_load_four(one, layout(shape, True, address=8))
    assert can_load_four(one, layout(shape, True, address=8, dtype="float16"))
    assert not can_load_four(one, layout(shape, False, address=64))
    assert not can_load_four(one, layout(shape, True, 9, address=64))


def test_what_32_bits_cannot_index_is_refused() -> None:
    layer = Layer(8, (1, 1))

    def scalars(shape: tuple[int, int, int, int]) -> tuple[int, ...]:
        batch, _, height, width = shape
        others = [layout((batch, channels, height, width), last=False) for channels in (2, 1, 8)]
        return plain_scalars(layer, layout(shape, last=False), *others)

    assert len(scalars((1, 8, 4096, 4096))) == len(PLAIN.arguments) - 6
    with pytest.raises(KernelArgumentError, match="x is too large"):
        scalars((2, 64, 4096, 4096))
    with pytest.raises(KernelArgumentError, match="out is too large"):
        scalars((17, 1, 4096, 4096))
    with pytest.raises(KernelArgumentError, match="image is too large"):
        scalars((1, 1, 1, 2**24))


def test_rows_that_do_not_follow_each_other_are_refused() -> None:
    good, shape = layout((1, 1, 4, 4), last=False), (1, 2, 4, 4)
    with pytest.raises(KernelArgumentError, match="rows of offset are 5 elements apart, and not 4 pixels of 1"):
        plain_scalars(Layer(1, (1, 1)), good, ArrayView(shape, (40, 20, 5, 1), "float32"), good, good)


@pytest.mark.parametrize(
    ("pixels", "filters", "tile"),
    [
        (8 * 128 * 128, 64, TILES[0]),
        (8 * 32 * 32, 128, TILES[0]),
        (8 * 128 * 128, 32, TILES[4]),
        (128 * 128, 3, TILES[4]),
        (16 * 16, 256, TILES[5]),
        (1, 1, TILES[5]),
    ],
)
def test_tiles_are_as_large_as_leaves_enough_blocks(pixels: int, filters: int, tile: Tile) -> None:
    assert tile_for(pixels, filters) == tile
