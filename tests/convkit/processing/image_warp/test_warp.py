"""The warp kernel on the host: against OpenCV, the definition in float64, its NumPy reference, and CenterNet's host."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.centernet import Affine
from support.warp_variants import warp_variants
from support.warping import RAMP, noise, on_host, pack

from convkit import DevicePreprocess
from convkit.cuda import Variant
from convkit.errors import KernelArgumentError, KernelError
from convkit.processing.image_warp import (
    FRAMED_RECORD,
    IMAGE_RECORD,
    ImageWarp,
    fit_levels,
    line_values,
    rounded,
    warp,
)

MEAN, STD = (0.40789654, 0.44719302, 0.47026115), (0.28863828, 0.27408164, 0.27809835)
CENTERNET = {"resize": "fix_res", "height": 64, "width": 96, "pad": 31, "mean": MEAN, "std": STD}
MIXED = [(37, 53), (120, 64), (1, 1), (2, 70), (33, 20), (1, 9), (9, 1)]


def definition(image: np.ndarray, matrix: Any, height: int, width: int, border: Sequence[int]) -> np.ndarray:
    """Sample pixel by pixel in float64: four neighbours, of which those outside are the border."""
    rows, columns, channels = image.shape
    result = np.empty((height, width, channels))
    for y in range(height):
        for x in range(width):
            across, down = np.asarray(matrix, np.float64) @ (x, y, 1)
            left, top = int(np.floor(across)), int(np.floor(down))
            total = np.zeros(channels)
            for row, column in ((top + i, left + j) for i in (0, 1) for j in (0, 1)):
                weight = (1 - abs(down - row)) * (1 - abs(across - column))
                inside = 0 <= row < rows and 0 <= column < columns
                total += weight * (image[row, column].astype(np.float64) if inside else np.array(border))
            result[y, x] = total
    return result


def letterbox(rows: int, columns: int, height: int, width: int, half_pixel: bool) -> np.ndarray:
    """The output-to-image matrix of the YOLO family: fit, centre; tensorRT_Pro maps centres of pixels."""
    scale = min(height / rows, width / columns)
    shift = 0.5 * scale - 0.5 if half_pixel else 0.0
    forward = [
        [scale, 0, -scale * columns / 2 + width / 2 + shift],
        [0, scale, -scale * rows / 2 + height / 2 + shift],
    ]
    return np.linalg.inv(np.vstack([np.array(forward), [0, 0, 1]]))[:2]


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 70), st.integers(1, 150)),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_levels_are_those_of_opencv(image_size: tuple[int, int], size: tuple[int, int], gap: int, seed: int) -> None:
    (rows, columns), (height, width) = image_size, size
    image, border = noise(rows, columns, seed=seed), (114, 3, 250)
    matrix = letterbox(rows, columns, height, width, half_pixel=bool(seed % 2))
    expected = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=border
    )
    settings = ImageWarp(RAMP, border=border)
    found = on_host(settings, settings.variant("float32"), *pack([image], [matrix], gap), size)[0].transpose(1, 2, 0)
    difference = np.abs(found - expected)
    assert difference.max() <= 1
    assert (difference > 0).sum() <= 3  # OpenCV's last columns have no fused multiply-add


@settings(max_examples=40)
@given(st.lists(st.floats(-1.5, 1.5, width=32), min_size=4, max_size=4), st.integers(-40, 40), st.integers(-40, 40))
def test_any_affine_map_is_within_one_level_of_opencv(linear: list[float], dx: int, dy: int) -> None:
    image = noise(31, 45, seed=dx + 40)
    matrix = np.array([[linear[0], linear[1], dx], [linear[2], linear[3], dy]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(image, matrix, (70, 33), flags=flags, borderValue=(9, 9, 9))
    settings = ImageWarp(RAMP, border=(9, 9, 9))
    found = on_host(settings, settings.variant("float32"), *pack([image], [matrix]), (33, 70))[0].transpose(1, 2, 0)
    assert np.abs(found - expected).max() <= 1
    exact = ImageWarp(RAMP, border=(9, 9, 9), rounding="none")
    found = on_host(exact, exact.variant("float32"), *pack([image], [matrix]), (33, 70))
    np.testing.assert_array_equal(found, warp(exact, *pack([image], [matrix]), 33, 70))


@pytest.mark.parametrize("rounding", ["none", "even", "up"])
@pytest.mark.parametrize("half_pixel", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(23, 40), (40, 23), (5, 7), (90, 70)])
def test_letterbox_by_its_definition(rows: int, columns: int, half_pixel: bool, rounding: Any) -> None:
    """YOLO: grey border, RGB, 0 to 1, with or without the half-pixel rule of tensorRT_Pro."""
    image, height, width = noise(rows, columns), 32, 41
    matrix = letterbox(rows, columns, height, width, half_pixel).astype(np.float32)
    exact = definition(image, matrix, height, width, (114, 114, 114))[..., ::-1].transpose(2, 0, 1)
    settings = ImageWarp(RAMP / np.float32(255), border=(114,) * 3, swap=True, rounding=rounding)
    found = on_host(settings, settings.variant("float32"), *pack([image], [matrix]), (height, width))[0] * 255
    if rounding == "none":
        np.testing.assert_allclose(found, exact, atol=0.01)
    else:
        near = np.abs(exact - np.floor(exact) - 0.5) < 0.01  # a tie, or as good as one
        wanted = np.rint(exact) if rounding == "even" else np.floor(exact + 0.5)
        np.testing.assert_allclose(found[~near], wanted[~near], atol=1e-3)
        assert np.abs(found - exact).max() <= 0.51


def opencv_letterbox(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], rectangle: Sequence[int], border: Sequence[int]
) -> np.ndarray:
    """OpenCV's warp with a replicated edge within the rectangle, the border outside of it."""
    height, width = size
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    left, top, right, bottom = rectangle
    result = np.empty_like(inside)
    result[:] = border
    result[top:bottom, left:right] = inside[top:bottom, left:right]
    return result


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 70), st.integers(1, 150)),
    st.integers(0, 99),
)
def test_a_replicated_edge_is_that_of_opencv(image_size: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    (rows, columns), (height, width) = image_size, size
    image, border = noise(rows, columns, seed=seed), (114, 3, 250)
    matrix = letterbox(rows, columns, height, width, half_pixel=True)
    scale = min(height / rows, width / columns)
    left, top = round((width - scale * columns) / 2), round((height - scale * rows) / 2)
    rectangle = (left, top, max(width - left, left), max(height - top, top))
    expected = opencv_letterbox(image, matrix, size, rectangle, border)
    warp_of = ImageWarp(RAMP, border=border, edge="replicate")
    table, pixels = pack([image], [matrix], seed % 4, warp_of, [rectangle])
    found = on_host(warp_of, warp_of.variant("float32"), table, pixels, size)[0].transpose(1, 2, 0)
    difference = np.abs(found - expected)
    assert difference.max() <= 1
    assert (difference > 0).sum() <= 3  # OpenCV's last columns have no fused multiply-add
    np.testing.assert_array_equal(found.transpose(2, 0, 1), warp(warp_of, table, pixels, height, width)[0])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_enlarged_image_is_that_of_opencvs_resize_up_to_its_edge(scale: int) -> None:
    """cv2.resize, as the YOLO family does it, has fixed-point weights: one level of difference is its own rounding."""
    image = noise(9, 13)
    height, width = 9 * scale + 10, 13 * scale + 6
    rectangle = (3, 5, 3 + 13 * scale, 5 + 9 * scale)
    matrix = np.array([[1 / scale, 0, (0.5 - 3) / scale - 0.5], [0, 1 / scale, (0.5 - 5) / scale - 0.5]])
    expected = np.full((height, width, 3), 114, np.uint8)
    expected[5 : 5 + 9 * scale, 3 : 3 + 13 * scale] = cv2.resize(image, None, fx=scale, fy=scale)
    warp_of = ImageWarp(RAMP, border=(114,) * 3, edge="replicate")
    table, pixels = pack([image], [matrix], 0, warp_of, [rectangle])
    found = on_host(warp_of, warp_of.variant("float32", last=True), table, pixels, (height, width), guard="end")
    assert np.abs(found[0].transpose(1, 2, 0) - expected).max() <= 1


@pytest.mark.parametrize(
    "matrix", [[[1e6, 0, 0], [0, 1e6, 0]], [[-3, 5, -8e6], [8e6, -8e6, 8e6]], [[0, 0, -8e6], [0, 0, 8e6]]]
)
def test_extreme_maps_with_a_replicated_edge_read_nothing_outside(matrix: Any) -> None:
    warp_of = ImageWarp(RAMP, border=(5, 6, 7), edge="replicate")
    table, pixels = pack([noise(6, 6)], [matrix], 0, warp_of, [(0, 0, 40, 20)])
    found = on_host(warp_of, warp_of.variant("float32"), table, pixels, (20, 40), guard="end")
    levels = set(pixels.tolist())
    assert set(found.astype(int).ravel().tolist()) <= levels


def test_ties_go_where_the_rounding_says() -> None:
    """Half-way between levels 10 and 11, and between 11 and 12."""
    image = np.array([[10, 11, 12]], np.uint8)[..., None].repeat(3, 2)
    table, pixels = pack([image], [[[1, 0, 0.5], [0, 1, 0]]])
    for rounding, wanted in (("even", [10, 12]), ("up", [11, 12]), ("none", [10.5, 11.5])):
        settings = ImageWarp(RAMP, rounding=rounding)  # type: ignore[arg-type]
        assert on_host(settings, settings.variant("float32"), table, pixels, (1, 2))[0, 0, 0].tolist() == wanted


def test_the_example_of_tensorrt_pro() -> None:
    """810 x 1080 into 512 x 512: its translation is (63.737, -0.263), against (64, 0) without the half pixel."""
    scale = 512 / 1080
    forward = np.linalg.inv(np.vstack([letterbox(1080, 810, 512, 512, True), [0, 0, 1]]))
    np.testing.assert_allclose(forward[:2], [[scale, 0, 63.737], [0, scale, -0.263]], atol=6e-4)


@pytest.mark.parametrize("variant", warp_variants(), ids=lambda variant: variant.label)
def test_every_variant_is_its_reference(variant: Variant) -> None:
    """Images of mixed sizes in one launch, at odd offsets, to the last bit of each dtype."""
    constants = dict(variant.constants)
    channels, slots = int(constants["CHANNELS"]), int(constants["SLOTS"])
    slopes = np.array([[0.0173], [0.0181], [0.0166]])
    levels = (np.sqrt(RAMP) if constants["LINES"] == 0 else RAMP.astype(np.float64) * slopes - 2.1).astype(np.float32)
    kept = min(3, channels)
    edge: Any = ("border", "replicate")[int(constants["EDGE"])]
    settings = ImageWarp(
        levels[:kept],
        channels=channels,
        border=(7, 100, 201, 50)[:channels],
        swap=bool(constants["SWAP"]),
        rounding=("none", "even", "up")[int(constants["ROUND"])],
        edge=edge,
    )
    assert settings.variant(str(constants["T"]), slots=slots, last=bool(constants["LAST"])) == variant
    images = [noise(*size, channels, seed) for seed, size in enumerate(MIXED)]
    framed = [(3 * index, index, 150 - index, 19 - index) for index in range(len(MIXED))]
    matrices = [letterbox(*size, 19, 150, True) for size in MIXED]
    table, pixels = pack(images, matrices, 5, settings, None if edge == "border" else framed)
    expected = rounded(warp(settings, table, pixels, 19, 150), str(constants["T"]))
    found = on_host(settings, variant, table, pixels, (19, 150))
    np.testing.assert_array_equal(found[:, :kept], expected)
    assert not found[:, kept:].any()


def test_four_channels_are_swapped_and_scaled_as_they_are_written() -> None:
    """BGRA to RGBA: the last channel stays, and each level is that of the output's channel."""
    image, matrix = noise(20, 30, channels=4), [[0.5, 0, 1], [0, 0.5, 1]]
    factors = np.array([[1], [10], [100], [1000]], np.float32)
    settings = ImageWarp(factors * RAMP[0], channels=4, border=(0,) * 4, swap=True)
    plain = ImageWarp(np.tile(RAMP[0], (4, 1)), channels=4, border=(0,) * 4)
    table, pixels = pack([image], [matrix])
    found, levels = (on_host(each, each.variant("float32"), table, pixels, (9, 40))[0] for each in (settings, plain))
    np.testing.assert_array_equal(found, levels[[2, 1, 0, 3]] * factors[..., None])


@pytest.mark.parametrize("guard", ["start", "end"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_nothing_is_read_outside_the_buffer(guard: Any, channels: int) -> None:
    """Single images that fill the buffer, so that it ends right after the last word that holds a pixel."""
    settings = ImageWarp(RAMP[: min(3, channels)], channels=channels, border=(1,) * channels)
    variant = settings.variant("float16", last=True)
    for rows, columns in ((1, 1), (2, 2), (3, 5), (5, 3), (7, 33)):
        table, pixels = pack([noise(rows, columns, channels)], [letterbox(rows, columns, 9, 35, True)])
        found = on_host(settings, variant, table, pixels, (9, 35), guard=guard)
        np.testing.assert_array_equal(found, warp(settings, table, pixels, 9, 35))


@pytest.mark.parametrize("matrix", [[[1e6, 0, 0], [0, 1e6, 0]], [[-3, 5, -8e6], [8e6, -8e6, 8e6]], np.zeros((2, 3))])
def test_extreme_maps_read_nothing_outside(matrix: Any) -> None:
    settings = ImageWarp(RAMP, border=(5, 6, 7))
    table, pixels = pack([noise(6, 6)], [matrix])
    found = on_host(settings, settings.variant("float32"), table, pixels, (20, 40), guard="end")
    np.testing.assert_array_equal(found, warp(settings, table, pixels, 20, 40))
    outside = np.ones((20, 40), bool)
    outside[:1, :1] = False
    if np.any(matrix):
        np.testing.assert_array_equal(found[0][:, outside].T, np.tile([5.0, 6.0, 7.0], (799, 1)))


@pytest.mark.parametrize("order", ["reverse", 7])
def test_the_order_of_threads_does_not_matter(order: Any) -> None:
    settings = ImageWarp(RAMP)
    table, pixels = pack([noise(40, 60), noise(20, 10)], [letterbox(40, 60, 17, 70, False)] * 2)
    variant = settings.variant("float32", last=True)
    np.testing.assert_array_equal(
        on_host(settings, variant, table, pixels, (17, 70), order=order),
        on_host(settings, variant, table, pixels, (17, 70)),
    )


@pytest.mark.parametrize("matrix", [letterbox(11, 13, 24, 24, False), [[0.5, 0, 0], [0, 0.4, 0]]])
def test_rows_may_lie_apart(matrix: Any) -> None:
    """A window of a larger image, by its pitch, is what a copy of the window is; with and without border."""
    whole = noise(40, 50)
    window = np.ascontiguousarray(whole[5:16, 7:20])
    settings = ImageWarp(RAMP, border=(1, 2, 3))
    inside = settings.table([settings.image(11, 13, matrix, pitch=150)], [5 * 150 + 21], 6000)
    found = on_host(settings, settings.variant("float32"), inside, whole.reshape(-1), (24, 24))
    np.testing.assert_array_equal(
        found, on_host(settings, settings.variant("float32"), *pack([window], [matrix]), (24, 24))
    )


@pytest.mark.parametrize("resize", ["fix_res", "keep_res"])
@pytest.mark.parametrize(("rows", "columns"), [(37, 53), (120, 64), (64, 96), (1, 1), (3, 200)])
def test_centernet_is_the_host_bit_for_bit(resize: str, rows: int, columns: int) -> None:
    size = (None, None) if resize == "keep_res" else (64, 96)
    host = Affine({**CENTERNET, "resize": resize, "height": size[0], "width": size[1]})
    device = host.on_device()
    assert isinstance(device, DevicePreprocess)
    image = noise(rows, columns)
    expected, placement = host(image), device.place(image)
    tensor = expected.tensors["images"]
    assert placement.shapes == {"images": tensor.shape}
    assert placement.meta == expected.meta
    assert placement.payload is image
    table = np.array([device.row(placement, 0)], device.record)
    pixels = np.concatenate([image.reshape(-1), np.zeros(-image.size % 4, np.uint8)])
    settings = ImageWarp(host.table)
    for dtype in ("float32", "float16"):
        found = on_host(settings, settings.variant(dtype), table, pixels, tensor.shape[1:])[0]
        np.testing.assert_array_equal(found, rounded(tensor, dtype))
    assert settings.variant("float16") in device.kernels()


@pytest.mark.parametrize(
    ("mean", "std"),
    [(MEAN, STD), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0,) * 3, (1.0,) * 3), ((0.5,) * 3, (0.5,) * 3)],
)
def test_lines_give_usual_normalisations_exactly(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    steps = np.arange(256)[None] / 255.0
    levels = ((steps - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(np.float32)
    for dtype, count in (("float32", 2), ("float16", 1), ("bfloat16", 1)):
        lines, values = fit_levels(levels, dtype)
        assert lines == count
        np.testing.assert_array_equal(rounded(line_values(values), dtype), rounded(levels, dtype))


def test_levels_on_no_line_are_looked_up() -> None:
    assert dict(ImageWarp(np.sqrt(RAMP)).variant("float16").constants)["LINES"] == 0
    with pytest.raises(KernelArgumentError, match="not on a line"):
        ImageWarp(np.sqrt(RAMP), rounding="none")


def test_rounding_is_that_of_torch() -> None:
    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    for dtype in ("float16", "bfloat16", "float32"):
        expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
        np.testing.assert_array_equal(rounded(values, dtype), expected)


def test_the_record_is_what_the_kernel_reads() -> None:
    """Field by field, as a C++ program would write it."""
    settings = ImageWarp(RAMP)
    raw = settings.table([settings.image(7, 8, [[1, 2, 3], [4, 5, 6]], pitch=99)], [2**40]).tobytes()
    assert len(raw) == IMAGE_RECORD.itemsize == 48
    assert np.frombuffer(raw[:8], "<i8")[0] == 2**40
    assert np.frombuffer(raw[8:24], "<i4").tolist() == [7, 8, 99, 0]
    assert np.frombuffer(raw[24:], "<f4").tolist() == [1, 2, 3, 4, 5, 6]
    framed = ImageWarp(RAMP, edge="replicate")
    image = framed.image(7, 8, [[1, 2, 3], [4, 5, 6]], pitch=99, rectangle=(-1, 2, 30, 4))
    longer = framed.table([image], [2**40]).tobytes()
    assert len(longer) == FRAMED_RECORD.itemsize == 64
    assert longer[:48] == raw
    assert np.frombuffer(longer[48:], "<i4").tolist() == [-1, 2, 30, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pitch": 23}, "rows of 24 bytes, but a pitch of 23"),
        ({"height": 0}, "empty or too large"),
        ({"width": 0}, "empty or too large"),
        ({"height": 30000, "width": 30000}, "too large for 32-bit"),
        ({"matrix": [[1, 0, np.nan], [0, 1, 0]]}, "no usable matrix"),
        ({"matrix": [[1, 0, 1e9], [0, 1, 0]]}, "no usable matrix"),
        ({"matrix": np.eye(3)}, "no usable matrix"),
        ({"rectangle": (0, 0, 8, 8)}, "the edge is 'border'"),
    ],
)
def test_images_that_no_kernel_can_use_are_refused(change: dict[str, Any], message: str) -> None:
    settings, arguments = ImageWarp(RAMP), {"height": 8, "width": 8, "matrix": [[1, 0, 0], [0, 1, 0]]}
    settings.image(**arguments)
    with pytest.raises(KernelArgumentError, match=message):
        settings.image(**{**arguments, **change})


@pytest.mark.parametrize("rectangle", [None, (1, 2, 3)])
def test_a_replicated_edge_needs_a_rectangle(rectangle: Any) -> None:
    with pytest.raises(KernelArgumentError, match="the edge is 'replicate'"):
        ImageWarp(RAMP, edge="replicate").image(8, 8, [[1, 0, 0], [0, 1, 0]], rectangle=rectangle)


@pytest.mark.parametrize(
    ("count", "offsets", "capacity", "message"),
    [
        (0, [], None, "an offset for each"),
        (1, [0, 4], None, "an offset for each"),
        (1, [0], 190, "Round its length"),
        (1, [0], 188, "not within its pixel buffer"),
        (1, [-4], 192, "not within its pixel buffer"),
    ],
)
def test_tables_that_lead_outside_the_buffer_are_refused(
    count: int, offsets: list[int], capacity: int | None, message: str
) -> None:
    settings = ImageWarp(RAMP)
    image = settings.image(8, 8, [[1, 0, 0], [0, 1, 0]])
    assert len(settings.table([image], [0], 192)) == 1
    with pytest.raises(KernelArgumentError, match=message):
        settings.table([image] * count, offsets, capacity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": RAMP[:, :255]}, "not finite"),
        ({"levels": RAMP[0]}, "not finite"),
        ({"levels": np.full((3, 256), np.inf)}, "not finite"),
        ({"channels": 2}, "cannot be made"),
        ({"channels": 1, "border": (0,)}, "cannot be made"),
        ({"levels": RAMP[:1], "swap": True}, "cannot be made"),
        ({"border": (0, 0)}, "not a pixel"),
        ({"border": (0, 0, 256)}, "not a pixel"),
        ({"rounding": "down"}, "no rounding"),
        ({"edge": "wrap"}, "no edge"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        ImageWarp(**{"levels": RAMP, **arguments})


class OnGpu:
    """An array that says that it is on a GPU."""

    def __init__(self, **interface: Any) -> None:
        self.interface, self.device = interface, SimpleNamespace(id=0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface


def array(shape: tuple[int, ...], typestr: str = "<f2", strides: tuple[int, ...] | None = None) -> OnGpu:
    return OnGpu(shape=shape, typestr=typestr, strides=strides, data=(1 << 20, False), version=3)


@pytest.mark.parametrize(
    ("output", "table", "message"),
    [
        (array((2, 3, 8, 8), "<f8"), array((2, 48), "|u1"), "cannot be float64"),
        (array((2, 2, 8, 8)), array((2, 48), "|u1"), "do not go into"),
        (array((2, 9, 8, 8)), array((2, 48), "|u1"), "do not go into"),
        (array((3, 8, 8)), array((2, 48), "|u1"), r"must be \[B, C, H, W\]"),
        (array((2, 3, 0, 8)), array((2, 48), "|u1"), r"must be \[B, C, H, W\]"),
        (array((2, 3, 8, 8), strides=(384, 128, 2, 16)), array((2, 48), "|u1"), "contiguous or channels-last"),
        (array((2, 3, 8, 8)), array((2, 64), "|u1"), r"expected \[2, 48\]"),
        (array((2, 3, 8, 8)), array((3, 48), "|u1"), r"'table' has the shape .* expected \[2, 48\]"),
        (array((2, 3, 8, 8)), array((96,), "|u1"), r"'table' has the shape .* expected \[2, 48\]"),
        (array((1, 3, 32768, 32768)), array((1, 48), "|u1"), "too large for 32-bit"),
        (array((70000, 3, 8, 8)), array((70000, 48), "|u1"), "above the limit"),
        ("tensor", array((1, 48), "|u1"), "'output' is a str: no cupy array"),
    ],
)
def test_launches_that_cannot_work_are_refused_without_a_gpu(output: Any, table: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        ImageWarp(RAMP).launch(table, array((999,), "|u1"), output, 0)


def test_a_wrong_pitch_would_be_seen() -> None:
    """The guard of the other tests works: an image that is said to be longer than its buffer is an error."""
    settings = ImageWarp(RAMP)
    table, pixels = pack([noise(8, 8)], [letterbox(8, 8, 9, 35, True)])
    table["pitch"] = 400
    with pytest.raises(KernelError, match="pixels"):
        on_host(settings, settings.variant("float32"), table, pixels, (9, 35), guard="end")
