"""Reading images and videos of every kind, and the synthetic scenes of proofs."""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp
from support.scenes import forget

from convkit.errors import ImageError, InputError
from convkit.processing import ImageReader, as_bgr, read_image, synthetic_scenes, to_image
from convkit.processing._animation import gif_pixels

READER = ImageReader()


def pil() -> Any:
    """Return Pillow's images, which convkit takes and does without."""
    return pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def colour() -> np.ndarray:
    """Draw a smooth scene that JPEG keeps well, 40 x 60."""
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y], -1).astype(np.uint8)


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif", ".tiff", ".PNG"])
def test_lossless_formats_come_back_bit_for_bit(tmp_path, colour, suffix):
    np.testing.assert_array_equal(read_image(write(tmp_path / f"a{suffix}", colour)), colour)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_read_as_opencv_reads_them(tmp_path, colour, suffix):
    path = write(tmp_path / f"a{suffix}", colour)
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path)))


def test_a_greyscale_file_becomes_three_equal_channels(tmp_path, colour):
    grey = colour[..., 0]
    read = read_image(write(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=2))


def test_an_alpha_channel_is_dropped_not_blended(tmp_path, colour):
    alpha = np.zeros(colour.shape[:2], np.uint8)
    read = read_image(write(tmp_path / "alpha.png", np.dstack([colour, alpha])))
    np.testing.assert_array_equal(read, colour)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_rounded_to_eight(tmp_path, channels):
    deep = np.random.default_rng(channels).integers(0, 65536, (9, 7, channels), np.uint16)
    deep.flat[:4] = (0, 65535, 128, 129)
    read = read_image(write(tmp_path / "deep.png", deep.squeeze()))
    expected = np.rint(deep[..., :3] / 257).astype(np.uint8)
    np.testing.assert_array_equal(read, np.broadcast_to(expected, read.shape))


def test_a_photo_is_turned_as_its_exif_orientation_says(tmp_path, colour):
    """Cameras store portraits lying; what opens them upright trained and annotated them upright."""
    tag = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, 6) + struct.pack("<I", 0)
    data = cv2.imencode(".jpg", colour)[1].tobytes()
    path = tmp_path / "portrait.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + data[2:])
    read = read_image(path)
    assert read.shape == (60, 40, 3)
    np.testing.assert_array_equal(read, cv2.imread(str(path)))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)))
def test_arrays_of_any_shape_become_bgr_or_an_error(image):
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels not in (1, 3, 4):
        with pytest.raises(ImageError, match=f"{channels} channels"):
            as_bgr(image)
        return
    converted = as_bgr(image)
    assert converted.shape == (*image.shape[:2], 3)
    assert converted.dtype == np.uint8
    assert converted.flags.c_contiguous
    planes = image.reshape(*image.shape[:2], channels)
    np.testing.assert_array_equal(converted, planes[..., :3] if channels > 1 else np.repeat(planes, 3, 2))


def test_a_view_with_strange_strides_becomes_contiguous(colour):
    mirrored = as_bgr(colour[:, ::-1])
    assert mirrored.flags.c_contiguous
    np.testing.assert_array_equal(mirrored, np.fliplr(colour))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 10, 3), np.uint8), "no pixels"),
        (np.zeros((10, 0), np.uint8), "no pixels"),
        (np.zeros((5,), np.uint8), "no pixels"),
        (np.zeros((1, 5, 5, 3), np.uint8), "no pixels"),
        (np.zeros((5, 5, 3), np.float32), "float32"),
        (np.zeros((5, 5, 3), bool), "bool"),
        (np.zeros((5, 5, 3), np.int64), "int64"),
    ],
)
def test_arrays_that_are_no_images_are_refused(image, message):
    with pytest.raises(ImageError, match=message) as caught:
        as_bgr(image, "cat.png")
    assert caught.value.message.startswith("cat.png")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "0 bytes"),
        ("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
        ("text.png", b"hello", "not an image"),
        ("magic.png", b"\x89PNG\r\n\x1a\n", "is cut off"),
        ("tree.jpg", b"\xef\xbb\xbf\r\n<HTML><head>", "is a web page, not an image"),
        ("plan.png", b"<?xml version='1.0'?><svg xmlns='x'/>", "is an SVG drawing"),
        ("scan.jpg", b"%PDF-1.7", "is a PDF document"),
        ("phone.jpg", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "is a HEIC image"),
        ("film.jpg", b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00", "is a video"),
        ("layers.jpg", b"8BPS\x00\x01", "is a Photoshop file"),
        ("jxl.jpg", b"\xff\x0a\xfa\x1f", "is a JPEG XL image"),
        ("many.jpg", b"PK\x03\x04\x14", "is a zip archive"),
        ("lfs.jpg", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("mac.jpg", b"\x00\x05\x16\x07" + bytes(90), "attributes that macOS keeps"),
        ("array.png", b"\x93NUMPY\x01\x00", "is a NumPy array"),
    ],
)
def test_files_that_are_no_images_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(tmp_path / name)
    assert name in caught.value.message
    assert caught.value.hint


def write_png(path: Path, wide: int, high: int, *, data: bytes) -> Path:
    """Write a grey PNG that declares its size, whatever the data are."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def test_a_file_of_more_pixels_than_opencv_reads_is_refused_for_its_size(tmp_path):
    path = write_png(tmp_path / "ortho.png", 40000, 30000, data=bytes(100))
    with pytest.raises(ImageError, match=r"ortho\.png is too large: .* more pixels") as caught:
        read_image(path)
    assert "tiles" in caught.value.hint


def test_a_small_file_of_more_pixels_than_are_read_is_refused_before_it_is_decoded(tmp_path):
    """The pixels are all there, so that only their number is wrong: 140 million bits."""
    path = tmp_path / "bits.png"
    lines = zlib.compress(bytes((1 + 14000 // 8) * 10000), 1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 14000, 10000, 1, 0, 0, 0, 0)), (b"IDAT", lines), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(ImageError, match="more pixels than the 134,217,728 that are read") as caught:
        read_image(path)
    assert "OPENCV_IO_MAX_IMAGE_PIXELS" in caught.value.hint


def test_a_png_whose_chunk_declares_more_than_there_is_is_cut_off(tmp_path):
    path = write_png(tmp_path / "a.png", 40, 50, data=bytes(41 * 50))
    content = bytearray(path.read_bytes())
    assert read_image(path).shape == (50, 40, 3)
    content[33:37] = b"\x7f\xff\xff\xff"  # the length of IDAT
    path.write_bytes(content)
    with pytest.raises(ImageError, match="cut off"):
        read_image(path)


def test_a_gif_whose_images_are_too_many_together_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.gif"
    pixels = np.random.default_rng(0).integers(0, 255, (6, 20, 30, 3), np.uint8)
    frames = [pil().fromarray(frame) for frame in pixels]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert gif_pixels(path.read_bytes()) == 6 * 20 * 30
    assert gif_pixels(path.read_bytes()[:200]) in (0, 20 * 30)
    assert len(list(ImageReader().frames([path]))) == 6
    monkeypatch.setattr("convkit.processing._videos.MOST_ANIMATED", 6 * 20 * 30 - 1)
    with pytest.raises(ImageError, match=r"a\.gif is too large: its images have 3,600 pixels together"):
        list(ImageReader().frames([path]))


@pytest.mark.parametrize("shape", [(26755, 26755), (26755, 26755, 3), (1, 715827883)])
def test_an_array_that_would_crash_opencv_is_refused(shape):
    with pytest.raises(ImageError, match=f"map is too large: {shape[1]} x {shape[0]} pixels") as caught:
        as_bgr(np.broadcast_to(np.uint8(0), shape), "map")
    assert "tiles" in caught.value.hint


def test_the_size_is_that_of_the_bgr_image(tmp_path, monkeypatch):
    """A grey image is a third of what it becomes."""
    monkeypatch.setattr("convkit.processing._images.MAX_BYTES", 3 * 40 * 50)
    assert read_image(write_png(tmp_path / "a.png", 40, 50, data=bytes(41 * 50))).shape == (50, 40, 3)
    with pytest.raises(ImageError, match=r"b\.png is too large: 41 x 50 pixels; .* at most 2,000 pixels"):
        read_image(write_png(tmp_path / "b.png", 41, 50, data=bytes(42 * 50)))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".webp", ".tiff"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, colour, suffix, part):
    """OpenCV itself returns a part of some of them with a grey or black rest."""
    path = write(tmp_path / f"a{suffix}", colour)
    read_image(path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ImageError, match=r"a\.\w+ is (cut off|not an image)") as caught:
        read_image(path)
    assert "truncated" in caught.value.hint or "stopped early" in caught.value.hint


def test_a_jpeg_with_a_thumbnail_and_something_behind_it_is_whole(tmp_path, colour):
    """The end of the thumbnail is not the end of the image, and cameras write more behind it."""
    small, whole = (cv2.imencode(".jpg", image)[1].tobytes() for image in (colour[:8, :8], colour))
    exif = b"Exif\0\0" + small
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + whole[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(data + bytes(5000))
    np.testing.assert_array_equal(read_image(path), cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR))
    path.write_bytes(data[:-2])
    with pytest.raises(ImageError, match="cut off"):
        read_image(path)


def test_images_of_which_only_the_first_is_taken_are_said(tmp_path, colour):
    frames = [pil().fromarray(colour), pil().fromarray(255 - colour)]
    for name in ("a.webp", "a.png", "a.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    write(tmp_path / "b.png", colour)
    said = []
    assert len(list(READER.frames([tmp_path], note=said.append))) == 4
    assert sorted(text.split(" contains ")[0] for text in said) == [
        str(tmp_path / f"a{s}") for s in (".png", ".tiff", ".webp")
    ]


def test_a_gif_gives_all_its_images(tmp_path, colour):
    frames = [pil().fromarray(colour), pil().fromarray(255 - colour)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert [frame.name for frame in READER.frames([tmp_path / "a.gif"])] == ["a_000000.jpg", "a_000001.jpg"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "There is no image"),
        (lambda path: path.mkdir(), "is a folder, not a file"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "There is no image"),
        (lambda path: path.symlink_to(path), "There is no image|cannot be read"),
    ],
)
def test_a_path_without_a_file_is_refused(tmp_path, make, message):
    make(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "gone.png")


def test_a_file_that_may_not_be_read_is_no_traceback(tmp_path, colour, monkeypatch):
    path = write(tmp_path / "a.png", colour)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match=r"a\.png cannot be read: Permission denied"):
        read_image(path)


def test_files_of_systems_among_several_are_left_out(tmp_path, colour):
    write(tmp_path / "a.png", colour)
    names = ["Thumbs.db", "desktop.ini", ".DS_Store", "._a.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    for name in ("@eaDir", "__MACOSX"):
        (tmp_path / name).mkdir()
    assert [frame.name for frame in READER.frames(sorted(tmp_path.iterdir()))] == ["a.png"]
    with pytest.raises(ImageError):
        list(READER.frames([tmp_path / "Thumbs.db"]))


def test_bad_files_are_handed_over_and_the_rest_is_read(tmp_path, colour):
    for name in "ace":
        write(tmp_path / f"{name}.png", colour)
    for name in "bd":
        (tmp_path / f"{name}.png").write_bytes(b"")
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for seed in range(8):
        writer.write(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    (tmp_path / "v.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    bad: dict[str, str] = {}
    frames = list(
        READER.frames([tmp_path, tmp_path / "v.avi"], bad=lambda path, error: bad.update({path.name: str(error)}))
    )
    assert [frame.name for frame in frames if "v_" not in frame.name] == ["a.png", "c.png", "e.png"]
    assert any("v_" in frame.name for frame in frames)
    assert list(bad) == ["b.png", "d.png", "v.avi"]
    assert "cut off" in bad["v.avi"]


def test_a_folder_gives_its_images_by_name_and_nothing_else(tmp_path, colour):
    names = ["C.PNG", "a.jpg", *(f"{letter}.png" for letter in "bcdefghijklm")]
    for name in (*names[5:], *names[:5]):
        write(tmp_path / name, colour)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "._a.jpg").write_bytes(b"\x00\x05\x16\x07" + bytes(4000))
    write(tmp_path / ".thumbnail.png", colour)
    assert [path.name for path in READER.find(tmp_path)] == names
    assert [frame.name for frame in READER.frames([tmp_path])] == names


@pytest.mark.parametrize(("path", "message"), [("empty", "holds no images"), ("missing", "no folder")])
def test_a_folder_without_images_is_refused(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        READER.find(tmp_path / path)
    assert caught.value.hint


@pytest.fixture
def video(tmp_path) -> Path:
    """Write five grey frames, each brighter than the one before, as Motion JPEG."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for index in range(5):
        writer.write(np.full((48, 64, 3), 40 * index + 20, np.uint8))
    writer.release()
    return path


def test_a_video_gives_its_frames_in_order(video):
    found = list(READER.frames([video]))
    assert [frame.name for frame in found] == [f"clip_{index:06d}.jpg" for index in range(5)]
    assert [frame.source for frame in found] == [f"{video}#{index}" for index in range(5)]
    assert all(frame.raw.shape == (48, 64, 3) for frame in found)
    np.testing.assert_allclose([frame.raw.mean() for frame in found], [20, 60, 100, 140, 180], atol=3)


@pytest.mark.parametrize(
    ("name", "code"), [("v.wmv", "WMV2"), ("v.mpg", "mp4v"), ("v.flv", "FLV1"), ("v.mkv", "MJPG"), ("V.MP4", "mp4v")]
)
def test_videos_of_other_types_are_read(tmp_path, name, code):
    writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*code), 25, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV does not write {name}")
    for index in range(3):
        writer.write(np.full((48, 64, 3), 60 * index + 20, np.uint8))
    writer.release()
    means = [frame.raw.mean() for frame in READER.frames([tmp_path / name])]
    np.testing.assert_allclose(means, [20, 80, 140], atol=8)


def test_files_folders_and_videos_mix_in_the_given_order(tmp_path, video, colour):
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "x.png", colour)
    single = write(tmp_path / "single.png", colour)
    names = [frame.name for frame in READER.frames([single, tmp_path / "more", video])]
    assert names[:3] == ["single.png", "x.png", "clip_000000.jpg"]
    assert len(names) == 7


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no video"), (b"", "not a video"), (b"RIFFjunk", "not a video")]
)
def test_a_file_that_is_no_video_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "bad.avi").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        list(READER.frames([tmp_path / "bad.avi"]))


def test_frames_are_read_one_at_a_time(tmp_path, colour):
    """A broken file at the end does not keep the ones before it from being processed."""
    write(tmp_path / "a.png", colour)
    (tmp_path / "b.png").write_bytes(b"")
    stream = READER.frames([tmp_path])
    assert next(stream).name == "a.png"
    with pytest.raises(ImageError):
        next(stream)


@pytest.mark.parametrize("size", [(1, 1), (40, 60), (7, 300)])
def test_what_the_reader_writes_reads_back_bit_for_bit(tmp_path, size):
    """Golden samples are stored by it."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    file = READER.write(image, tmp_path / "input_0")
    assert file == tmp_path / "input_0.png"
    np.testing.assert_array_equal(READER.read(file), image)


def test_drawings_are_named_after_what_they_show():
    assert READER.result_name(Path("a/b.JPG")) == "b.JPG"
    assert READER.result_name(Path("a/clip.mp4"), 12) == "clip_000012.jpg"


class OnlyDlpack:
    """An array of a library that offers nothing but the exchange protocol."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __dlpack__(self, **options):
        return self.pixels.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.pixels.__dlpack_device__()


GIVEN = {
    "a path": lambda pixels, file: file,
    "a path as text": lambda pixels, file: str(file),
    "the bytes of a file": lambda pixels, file: file.read_bytes(),
    "a bytearray": lambda pixels, file: bytearray(file.read_bytes()),
    "a memoryview": lambda pixels, file: memoryview(file.read_bytes()),
    "an array": lambda pixels, file: pixels,
    "a 16-bit array": lambda pixels, file: pixels.astype(np.uint16) * 257,
    "an array with alpha": lambda pixels, file: np.dstack([pixels, pixels[..., 0]]),
    "a PIL image": lambda pixels, file: pil().fromarray(pixels[..., ::-1].copy()),
    "a PIL image with alpha": lambda pixels, file: pil().fromarray(pixels[..., ::-1].copy()).convert("RGBA"),
    "a torch tensor": lambda pixels, file: torch.from_numpy(pixels),
    "a view of a torch tensor": lambda pixels, file: torch.from_numpy(pixels.transpose(2, 0, 1).copy()).permute(
        1, 2, 0
    ),
    "an object with DLPack": lambda pixels, file: OnlyDlpack(pixels),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_what_people_have_in_memory_gives_the_same_pixels(tmp_path, colour, kind):
    found = to_image(GIVEN[kind](colour, write(tmp_path / "a.png", colour)))
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, colour)


def test_a_pil_photo_is_turned_as_its_exif_orientation_says(tmp_path, colour):
    photo = pil().fromarray(colour[..., ::-1].copy())
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "portrait.png", exif=exif)
    with pil().open(tmp_path / "portrait.png") as opened:
        np.testing.assert_array_equal(to_image(opened), np.rot90(colour, -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_pil_images_of_every_mode_become_bgr(colour, mode):
    given = pil().fromarray(colour[..., ::-1].copy()).convert(mode)
    np.testing.assert_array_equal(to_image(given), np.asarray(given.convert("RGB"))[..., ::-1])


REFUSED = {
    "nothing": (lambda: None, "None is no image", "cv2.imread returns None"),
    "a number": (lambda: 3, "A int is no image", "H x W x 3"),
    "a set": (lambda: {1}, "A set is no image", "H x W x 3"),
    "a float array": (lambda: np.zeros((4, 4, 3), np.float32), "float32", "uint8"),
    "a float tensor": (lambda: torch.zeros(4, 4, 3), "float32", "uint8"),
    "a tensor with its channels first": (
        lambda: torch.zeros(3, 40, 60, dtype=torch.uint8), r"Tensor of shape \(3, 40, 60\) has its channels first",
        "permute",
    ),
    "a tensor without a NumPy dtype": (lambda: torch.zeros(4, 4, 3, dtype=torch.bfloat16), "Tensor cannot be", ""),
    "a tensor that is nowhere": (lambda: torch.zeros(4, 4, 3, device="meta"), "Tensor cannot be read", "CPU"),
    "a batch": (lambda: np.zeros((2, 4, 4, 3), np.uint8), "no pixels", "H x W x 3"),
    "bytes of no image": (lambda: b"hello", "the given bytes is not an image", "PNG"),
    "no bytes": (lambda: b"", "the given bytes is empty", ""),
    "a path of nothing": (lambda: "nowhere.png", "There is no image nowhere.png", "path"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused_by_name(kind):
    make, message, remedy = REFUSED[kind]
    with pytest.raises(ImageError, match=message) as caught:
        to_image(make())
    assert caught.value.hint
    assert remedy in caught.value.hint


def test_scenes_depend_on_the_seed_alone():
    one, other = synthetic_scenes(3, seed=5), synthetic_scenes(3, seed=6)
    forget()
    again = synthetic_scenes(3, seed=5)
    for a, b, c in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any(-1).mean() > 0.9
    np.testing.assert_array_equal(one[0], synthetic_scenes(1, seed=5)[0])
    assert (one[0] != one[1]).any(-1).mean() > 0.9


@pytest.mark.parametrize("size", [(480, 640), (33, 57), (8, 8)])
def test_scenes_have_the_size_that_was_asked_for(size):
    scene = synthetic_scenes(1, seed=1, height=size[0], width=size[1])[0]
    assert scene.shape == (*size, 3)
    assert scene.dtype == np.uint8


def spectrum_slope(image: np.ndarray) -> float:
    """Return the slope of log amplitude over log frequency, averaged over directions."""
    grey = image.mean(-1) - image.mean()
    window = np.hanning(grey.shape[0])[:, None] * np.hanning(grey.shape[1])
    amplitude = np.abs(np.fft.fft2(grey * window))
    frequency = np.hypot(np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1])[None, :])
    edges = np.geomspace(0.02, 0.3, 13)
    centres = np.sqrt(edges[1:] * edges[:-1])
    means = [amplitude[(frequency >= low) & (frequency < high)].mean() for low, high in itertools.pairwise(edges)]
    return float(np.polyfit(np.log(centres), np.log(means), 1)[0])


def test_scenes_have_the_spectrum_of_natural_images_and_noise_has_not():
    """Natural images fall with about 1/f in amplitude; white noise is flat (Field 1987)."""
    slopes = [spectrum_slope(scene) for scene in synthetic_scenes(4, seed=2)]
    assert all(-1.5 < slope < -0.7 for slope in slopes), slopes
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    assert abs(spectrum_slope(noise)) < 0.1


def test_scenes_use_the_range_of_pixels_and_differ_between_channels():
    for scene in synthetic_scenes(4, seed=3):
        assert scene.std() > 20
        assert np.ptp(scene) > 150
        assert np.abs(scene[..., 0].astype(int) - scene[..., 2]).mean() > 5
