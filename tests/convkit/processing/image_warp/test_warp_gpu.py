"""The warp kernel on a GPU: large mixed batches against the host's preprocess, layouts, capture, and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from support.centernet import Affine
from support.warping import GREY, by_opencv, placed, to_image

from convkit.cuda import load
from convkit.errors import KernelArgumentError
from convkit.processing.image_warp import ImageWarp, SourceImage, warp

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

MEAN, STD = (0.40789654, 0.44719302, 0.47026115), (0.28863828, 0.27408164, 0.27809835)
CENTERNET = {"resize": "fix_res", "height": 512, "width": 512, "pad": 31, "mean": MEAN, "std": STD}
MIXED = [(1080, 1920), (1920, 1080), (480, 640), (37, 53), (1, 1), (2, 3001), (999, 333), (2160, 3840)]
RAMP = np.tile(np.arange(256, dtype=np.float32), (3, 1))


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def upload(settings: ImageWarp, images: Sequence[np.ndarray], sources: Sequence[SourceImage]) -> tuple[Any, Any]:
    """Return the table and the pixels on the GPU; images begin at odd offsets."""
    offsets, buffer = [], bytearray()
    for image in images:
        buffer += bytes(len(offsets) % 4)
        offsets.append(len(buffer))
        buffer += image.tobytes()
    buffer += bytes(-len(buffer) % 4)
    table = settings.table(sources, offsets, len(buffer))
    return on_gpu(table.view(np.uint8).reshape(len(table), -1)), on_gpu(np.frombuffer(bytes(buffer), np.uint8))


def on_gpu(array: np.ndarray) -> Any:
    return torch.from_numpy(array.copy()).cuda()


def poisoned(shape: Sequence[int], dtype: Any = torch.float32, last: bool = False) -> Any:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.full(tuple(shape), float("nan"), dtype=dtype, device="cuda").contiguous(memory_format=layout)


@pytest.fixture(scope="module")
def batch() -> tuple[Any, Any, Any, Any]:
    """The preprocess, the table, the pixels, and what the host makes of the mixed images."""
    host = Affine(CENTERNET)
    device, images = host.on_device(), [noise(*size, seed) for seed, size in enumerate(MIXED)]
    table, pixels = upload(device._warp, images, [device.place(image).detail for image in images])
    return device, table, pixels, torch.from_numpy(np.stack([host(image).tensors["images"] for image in images]))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mixed_batch_is_the_host(batch: Any, dtype: Any, last: bool) -> None:
    """At most a few values are one level off: OpenCV's last columns depend on the processor."""
    device, table, pixels, host = batch
    output = poisoned(host.shape, dtype, last)
    device.launch(table, pixels, {"images": output}, torch.cuda.current_stream().cuda_stream)
    found = output.cpu().float()
    wrong = found != host.to(dtype).float()
    assert wrong.sum() <= 10
    assert (found - host).abs().max() <= 1.01 / 255 / min(STD) + 0.02 * (dtype is torch.bfloat16)


@pytest.mark.parametrize("slots", [4, 8])
def test_padded_channels_are_zero(batch: Any, slots: int) -> None:
    device, table, pixels, host = batch
    output = poisoned((len(host), slots, 512, 512), torch.float16, last=True)
    device.launch(table, pixels, {"images": output}, torch.cuda.current_stream().cuda_stream)
    plain = poisoned(host.shape, torch.float16)
    device.launch(table, pixels, {"images": plain}, torch.cuda.current_stream().cuda_stream)
    assert torch.equal(output[:, :3], plain)
    assert not output[:, 3:].any()


@pytest.mark.parametrize("size", [(544, 960), (100, 33), (7, 5), (1, 1)])
def test_yolo_letterbox_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    images, matrices = [noise(*each, 5) for each in MIXED[:6]], []
    for image in images:
        rows, columns = image.shape[:2]
        scale = min(height / rows, width / columns)
        shift = scale / 2 - 0.5
        forward = np.array(
            [[scale, 0, (width - scale * columns) / 2 + shift], [0, scale, (height - scale * rows) / 2 + shift]]
        )
        matrices.append(cv2.invertAffineTransform(forward).astype(np.float32))
    settings = ImageWarp(RAMP, border=(114,) * 3, swap=True)
    sources = [settings.image(*image.shape[:2], matrix) for image, matrix in zip(images, matrices, strict=True)]
    table, pixels = upload(settings, images, sources)
    output = poisoned((len(images), 3, height, width))
    settings.launch(table, pixels, output)
    for image, matrix, found in zip(images, matrices, output.cpu().numpy(), strict=True):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(image, matrix, (width, height), flags=flags, borderValue=(114,) * 3)
        difference = np.abs(found.transpose(1, 2, 0) - expected[..., ::-1])
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= max(10, 1e-5 * difference.size), "one level off, in single pixels only"


@pytest.mark.parametrize("size", [(544, 960), (2000, 1300), (100, 33), (1, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_a_replicated_edge_is_that_of_opencv(size: tuple[int, int], last: bool) -> None:
    height, width = size
    images, sources, expected = [noise(*each, 5) for each in MIXED[:7]], [], []
    settings = ImageWarp(RAMP, border=(114, 3, 250), edge="replicate")
    for image in images:
        rows, columns = image.shape[:2]
        scale = min(height / rows, width / columns)
        left, top = int((width - scale * columns) / 2), int((height - scale * rows) / 2)
        matrix = np.array([[1 / scale, 0, (0.5 - left) / scale - 0.5], [0, 1 / scale, (0.5 - top) / scale - 0.5]])
        rectangle = (left, top, max(width - left, left), max(height - top, top))
        sources.append(settings.image(rows, columns, matrix, rectangle=rectangle))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        inside = cv2.warpAffine(
            image, matrix.astype(np.float32), (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        expected.append(np.empty_like(inside))
        expected[-1][:] = settings.border_pixel
        shown = slice(rectangle[1], rectangle[3]), slice(rectangle[0], rectangle[2])
        expected[-1][shown] = inside[shown]
    table, pixels = upload(settings, images, sources)
    output = poisoned((len(images), 3, height, width), last=last)
    settings.launch(table, pixels, output)
    for found, wanted in zip(output.cpu().numpy(), expected, strict=True):
        difference = np.abs(found.transpose(1, 2, 0) - wanted)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= max(10, 1e-5 * difference.size), "one level off, in single pixels only"


@pytest.mark.parametrize("size", [(640, 640), (544, 960), (97, 61)])
def test_a_letterbox_is_opencvs_resize_and_border_to_one_level(size: tuple[int, int]) -> None:
    images = [noise(*each, 5) for each in MIXED]
    settings = ImageWarp(RAMP, border=GREY, edge="replicate", rounding="up")
    sources = []
    for image in images:
        rectangle = placed(*image.shape[:2], *size)
        matrix = to_image(*image.shape[:2], rectangle)
        sources.append(settings.image(*image.shape[:2], matrix, rectangle=rectangle))
    table, pixels = upload(settings, images, sources)
    output = poisoned((len(images), 3, *size))
    settings.launch(table, pixels, output)
    for image, found in zip(images, output.cpu().numpy(), strict=True):
        assert np.abs(found.transpose(1, 2, 0) - by_opencv(image, *size)).max() <= 1


@pytest.mark.parametrize("rounding", ["none", "even", "up"])
def test_any_affine_map_is_the_reference(rounding: Any) -> None:
    rng = np.random.default_rng(3)
    images = [noise(*size, 9) for size in MIXED[2:6]]
    matrices = [rng.normal(size=(2, 3)) * [1, 1, 100] for _ in images]
    levels = np.sqrt(RAMP) if rounding == "up" else RAMP
    settings = ImageWarp(levels, border=(1, 2, 3), rounding=rounding)
    sources = [settings.image(*image.shape[:2], matrix) for image, matrix in zip(images, matrices, strict=True)]
    table, pixels = upload(settings, images, sources)
    output = poisoned((len(images), 3, 201, 303))
    settings.launch(table, pixels, output)
    records = table.cpu().numpy().view(settings.record).reshape(-1)
    expected = warp(settings, records, pixels.cpu().numpy(), 201, 303)
    np.testing.assert_allclose(output.cpu().numpy(), expected, atol=1e-3 if rounding == "none" else 0)


def test_a_captured_launch_follows_its_inputs(batch: Any) -> None:
    """Nothing of a launch is fixed in a graph but addresses: new pixels and a new table give new results."""
    device, table, pixels, host = batch
    fixed_table, fixed_pixels, output = torch.zeros_like(table), torch.zeros_like(pixels), poisoned(host.shape)
    fixed_table.copy_(table)
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    device.launch(table, pixels, {"images": output}, torch.cuda.current_stream().cuda_stream)  # the first may allocate
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        device.launch(fixed_table, fixed_pixels, {"images": output}, torch.cuda.current_stream().cuda_stream)
    fixed_table.copy_(table.flip(0))
    fixed_pixels.copy_(pixels)
    graph.replay()
    torch.cuda.synchronize()
    direct = poisoned(host.shape)
    device.launch(table, pixels, {"images": direct}, torch.cuda.current_stream().cuda_stream)
    assert torch.equal(output, direct.flip(0))


def test_results_are_identical_from_run_to_run(batch: Any) -> None:
    device, table, pixels, host = batch
    runs = []
    for _ in range(3):
        runs.append(poisoned(host.shape, torch.float16))
        device.launch(table, pixels, {"images": runs[-1]}, torch.cuda.current_stream().cuda_stream)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_pointers_and_cupy_arrays_do_as_well(batch: Any) -> None:
    cupy = pytest.importorskip("cupy")
    device, table, pixels, host = batch
    output = cupy.full(tuple(host.shape), np.nan, np.float16)
    device.launch(table.data_ptr(), pixels.data_ptr(), {"images": output}, cupy.cuda.get_current_stream().ptr)
    plain = poisoned(host.shape, torch.float16)
    device.launch(cupy.from_dlpack(table), cupy.from_dlpack(pixels), {"images": plain}, 0)
    torch.cuda.synchronize()
    np.testing.assert_array_equal(output.get(), plain.cpu().numpy())


def test_what_a_launch_cannot_take_is_refused(batch: Any) -> None:
    device, table, pixels, host = batch
    output = poisoned(host.shape, torch.float16)
    for bad, message in (
        ((table, pixels[1:], output), "multiple of 4"),
        ((table, pixels.int(), output), "dtype"),
        ((table, pixels.cpu(), output), "in host memory"),
        ((table[1:], pixels, output), "'table' has the shape"),
        ((table, pixels, output.double()), "cannot be float64"),
        ((table, pixels, output[..., ::2]), "contiguous or channels-last"),
        ((table, pixels, output.cpu()), "in host memory"),
    ):
        with pytest.raises(KernelArgumentError, match=message):
            device.launch(*bad[:2], {"images": bad[2]}, 0)


def test_every_variant_of_the_adapter_loads(batch: Any) -> None:
    for variant in batch[0].kernels():
        assert load(variant).variant == variant
