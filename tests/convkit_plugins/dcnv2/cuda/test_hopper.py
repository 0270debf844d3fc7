"""The Hopper kernel without running it: which layers it serves, its grid, and the arguments that tell layouts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.dcn_variants import hopper_variants
from support.deform_host import view

from convkit.cuda import ArrayView, LaunchConfig, evaluate
from convkit.errors import KernelArgumentError
from convkit_plugins.dcnv2.cuda import (
    HOPPER,
    LAYOUT_SCALARS,
    Layer,
    Tactic,
    candidates,
    hopper_serves,
    hopper_variant,
    layout_scalars,
    problem_of,
)

SQUARE = Layer(64, (3, 3), (1, 1), (1, 1))
Sizes = tuple[int, int, int]


def written(config: LaunchConfig, tactic: Tactic, sizes: Sizes) -> Counter[tuple[int, int, int]]:
    """Patches (image, first row, first column) and how often each is written: the loops of ``hopper.cu``."""
    batch, out_height, out_width = sizes
    tiles_x, tiles_y, blocks = (out_width + 7) // 8, (out_height + 7) // 8, config.grid[0]
    sets = -(-batch * tiles_x * tiles_y // tactic.patches)
    most = -(-sets // blocks)
    if tactic.cluster_k > 1:
        assert most == 1, "sums of slices meet once"
    found: Counter[tuple[int, int, int]] = Counter()
    for block in range(blocks):
        first_set = block * most  # each block has sets that follow each other
        turns = most if tactic.cluster_m > 1 else min(most, max(0, sets - first_set))
        assert turns >= 1, "a block without work"
        for number in range(turns * tactic.patches):
            image, place = divmod(first_set * tactic.patches + number, tiles_x * tiles_y)
            if image < batch:
                found[image, place // tiles_x * 8, place % tiles_x * 8] += 1
    return found


@settings(max_examples=150)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 70), st.integers(1, 70)),
    filters=st.integers(1, 600),
    multiprocessors=st.integers(1, 140),
    tactic=st.builds(
        Tactic,
        st.sampled_from([32, 64, 128, 256]),
        st.integers(1, 8),
        st.integers(1, 6),
        st.integers(1, 8),
        st.sampled_from([1, 2, 3, 4, 8]),
        *(st.just(n) for n in (2, 6, 2)),
        st.integers(1, 2),
    ).filter(lambda tactic: tactic.patches * tactic.tile_n <= 256),
)
@example(sizes=(1, 1, 1), filters=64, multiprocessors=132, tactic=Tactic(64, 3, 1, 4, 1, 4, 2, 2, 2))
@example(sizes=(8, 128, 128), filters=64, multiprocessors=132, tactic=Tactic(64, 3, 1, 1, 1, 9, 2, 2, 1))
def test_every_patch_is_written_once(sizes: Sizes, filters: int, multiprocessors: int, tactic: Tactic) -> None:
    variant = hopper_variant(Layer(filters, (3, 3)), "float16", 128, tactic, sigmoid=True)
    batch, out_height, out_width = sizes
    config = variant.launch_config(
        batch=batch, out_height=out_height, out_width=out_width, multiprocessors=multiprocessors
    ).check()
    every = {(n, y, x) for n in range(batch) for y in range(0, out_height, 8) for x in range(0, out_width, 8)}
    assert written(config, tactic, sizes) == Counter(every)
    assert config.grid[0] % tactic.cluster_m == 0
    assert config.grid[2] == tactic.cluster_k
    assert config.grid[1] * tactic.tile_n >= filters > (config.grid[1] - 1) * tactic.tile_n
    assert config.block == ((tactic.producers + 2) * 128, 1, 1)
    assert config.min_blocks_per_sm == tactic.blocks_per_sm


@pytest.mark.parametrize("patches", [1, 2, 3])
def test_blocks_stay_as_long_as_there_are_patches(patches: int) -> None:
    """No more blocks than run at a time, each with as many patches as the others."""
    variant = hopper_variant(SQUARE, "float16", 64, Tactic(64, patches, 1, 1, 1, 2, 2, 2, 2), sigmoid=True)
    sizes = {"batch": 8, "out_height": 128, "out_width": 128, "multiprocessors": 132}
    sets, at_once = -(-8 * 16 * 16 // patches), 264
    (blocks, *_) = variant.launch_config(**sizes).grid
    assert blocks <= at_once
    assert -(-sets // blocks) == -(-sets // at_once)
    assert blocks * -(-sets // blocks) - sets < -(-sets // at_once) * 2


@pytest.mark.parametrize(
    ("layer", "dtype", "shape", "served"),
    [
        (SQUARE, "float16", (1, 64, 9, 9), True),
        (SQUARE, "bfloat16", (2, 8, 2, 2), True),
        (SQUARE, "float32", (1, 64, 9, 9), False),
        (SQUARE, "float64", (1, 64, 9, 9), False),
        (SQUARE, "float16", (1, 60, 9, 9), False),
        (SQUARE, "float16", (1, 64, 1, 9), False),
        (SQUARE, "float16", (1, 64, 9, 1), False),
        (Layer(64, (3, 3), groups=4), "float16", (1, 32, 9, 9), True),
        (Layer(64, (3, 3), groups=4), "float16", (1, 48, 9, 9), False),  # 12 channels of a group
        (Layer(64, (3, 3), groups=8), "float16", (1, 64, 9, 9), True),
        (Layer(64, (7, 7), groups=3), "float16", (1, 48, 9, 9), False),  # two tables of 147 taps
    ],
)
def test_serves_what_it_can_load(layer: Layer, dtype: str, shape: tuple[int, ...], served: bool) -> None:
    assert hopper_serves(layer, dtype, shape) == served


@settings(max_examples=200)
@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    groups=st.integers(1, 8),
    filters=st.integers(1, 512),
    pieces=st.integers(1, 16),
    pixels=st.integers(1, 2**20),
)
@example(kernel=(3, 3), groups=8, filters=64, pieces=1, pixels=4096)
def test_there_are_tactics_for_what_it_serves(
    kernel: tuple[int, int], groups: int, filters: int, pieces: int, pixels: int
) -> None:
    """Whether float16 is blended in float16 or float32 is decided later, and both must be possible."""
    layer, channels = Layer(filters, kernel, groups=groups), 8 * pieces * groups
    for dtype in ("float16", "bfloat16"):
        if hopper_serves(layer, dtype, (1, channels, 9, 9)):
            for blend_fp32 in (True, False):
                assert candidates(problem_of(layer, channels, pixels, blend_fp32=blend_fp32), 6)


def tensor(shape: tuple[int, ...], last: bool) -> torch.Tensor:
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, device="meta").contiguous(memory_format=form)


@pytest.mark.parametrize("raw_last", [False, True])
def test_scalars_find_every_offset_and_mask(raw_last: bool) -> None:
    """By the kernel's own sum of strides, in a tensor of numbers that tell where they lie."""
    raw = torch.arange(2 * 27 * 5 * 7).reshape(2, 27, 5, 7)
    raw = raw.contiguous(memory_format=torch.channels_last if raw_last else torch.contiguous_format)
    offset, mask = raw[:, :18], raw[:, 18:]
    x, out = tensor((2, 8, 5, 7), True), tensor((2, 3, 5, 7), False)
    values = layout_scalars(*map(view, (x, offset, mask, out)))
    names = [argument.name for argument in HOPPER.arguments if not argument.pointer]
    assert tuple(names) == LAYOUT_SCALARS
    found = dict(zip(names, values, strict=True))
    assert [found[name] for name in ("batch", "height", "width", "out_height", "out_width")] == [2, 5, 7, 5, 7]
    for name, part in (("offset", offset), ("mask", mask)):
        flat = part.as_strided((raw.numel() - part.storage_offset(),), (1,))
        image, channel, pixel = (found[f"{name}_{axis}"] for axis in ("image", "channel", "pixel"))
        for n, c, y, x_ in ((0, 0, 0, 0), (1, 8, 4, 6), (1, 3, 2, 5), (0, 7, 3, 0)):
            assert flat[n * image + c * channel + (y * 7 + x_) * pixel] == part[n, c, y, x_]


def test_layouts_that_the_kernel_cannot_read_are_refused() -> None:
    x, raw, out = tensor((2, 8, 5, 7), True), tensor((2, 27, 5, 7), False), tensor((2, 3, 5, 7), True)
    good = [view(t) for t in (x, raw[:, :18], raw[:, 18:], out)]
    assert len(layout_scalars(*good)) == len(LAYOUT_SCALARS)
    for wrong in (x.contiguous(), tensor((2, 9, 5, 7), True)[:, :8], tensor((2, 8, 5, 8), True)[..., :7]):
        with pytest.raises(KernelArgumentError, match="dense channels-last") as caught:
            layout_scalars(view(wrong), *good[1:])
        assert "channels_last" in caught.value.hint
    apart = view(tensor((2, 18, 5, 8), False)[..., :7])
    with pytest.raises(KernelArgumentError, match="rows of offset are 8 elements apart, and not 7 pixels of 1"):
        layout_scalars(good[0], apart, *good[2:])
    with pytest.raises(KernelArgumentError, match="rows of mask"):
        layout_scalars(*good[:2], view(tensor((2, 9, 5, 8), True)[..., :7]), good[3])


def test_a_single_image_may_have_any_stride() -> None:
    """PyTorch calls it channels-last all the same, so it could not be made so."""
    x = torch.empty(5, 7, 8, device="meta").permute(2, 0, 1)[None]
    assert x.is_contiguous(memory_format=torch.channels_last)
    raw, out = tensor((1, 27, 5, 7), False), tensor((1, 3, 5, 7), True)
    others = [view(t) for t in (raw[:, :18], raw[:, 18:], out)]
    assert layout_scalars(view(x), *others) == layout_scalars(view(tensor((1, 8, 5, 7), True)), *others)


def test_rows_of_one_need_no_order() -> None:
    x, raw, out = tensor((1, 8, 2, 2), True), tensor((1, 27, 9, 3), False)[:, :, ::9], tensor((1, 3, 1, 3), False)
    assert layout_scalars(*map(view, (x, raw[:, :18], raw[:, 18:], out)))[1:5] == (2, 2, 1, 3)


@pytest.mark.parametrize(
    ("name", "batch", "size", "taps"),
    [
        ("the number of pixels of x", 2**15, (256, 256), 1),
        ("offset", 128, (512, 512), 36),
        ("mask", 128, (512, 512), 72),
    ],
)
def test_what_32_bits_cannot_index_is_refused(name: str, batch: int, size: tuple[int, int], taps: int) -> None:
    def of(channels: int, side: tuple[int, int] = size) -> ArrayView:
        return view(tensor((batch, channels, *side), True))

    offsets, masks = of(2 * taps if name == "offset" else 2), of(taps if name == "mask" else 1)
    small = (1, 1) if name.startswith("the number") else size
    with pytest.raises(KernelArgumentError, match=f"{name} is too large for indices of 32 bits") as caught:
        layout_scalars(of(8), *(offsets, masks) if small == size else (of(2, small), of(1, small)), of(3, small))
    assert "batch" in caught.value.hint


def test_output_pixels_that_32_bits_cannot_count_are_refused() -> None:
    """With offsets that lie on top of each other, nothing else is too large."""
    size = (2**15, 2**16)
    raw = ArrayView((1, 18, *size), (0, 0, 0, 0), "float16")
    with pytest.raises(KernelArgumentError, match="the number of output pixels is too large"):
        layout_scalars(view(tensor((1, 8, 9, 9), True)), raw, raw, view(tensor((1, 3, *size), True)))


def test_variants_trace_to_c_and_cover_every_constant() -> None:
    variants = hopper_variants()
    sizes = {"batch": 3, "out_height": 33, "out_width": 65, "multiprocessors": 114}
    for variant in variants:
        traced, config = variant.trace(), variant.launch_config(**sizes)
        assert tuple(evaluate(value, sizes) for value in traced.grid) == config.grid
    fields = [name.upper() for name in Tactic._fields if name != "blocks_per_sm"]
    for name in ("T", "SIGMOID", "RELU", "OUT_PLANES", "BLEND_FLOAT", "G", *fields):
        assert len({dict(variant.constants)[name] for variant in variants}) > 1, name
