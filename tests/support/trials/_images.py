"""Images and videos of every kind that OpenCV writes: cut off, changed, and with sizes that they do not have."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import cv2
import numpy as np

from convkit.processing import ImageReader

SUFFIXES = (".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm", ".gif", ".jp2", ".avif")


def originals(folder: Path) -> list[tuple[str, bytes]]:
    """Return small files of each kind, 8-bit and 16-bit, and a video."""
    y, x = np.mgrid[:48, :64]
    image = np.stack([x * 3, y * 5, 255 - x - y], -1).astype(np.uint8)
    found = []
    for suffix in SUFFIXES:
        for pixels in (image, image.astype(np.uint16) * 257) if suffix in (".png", ".tiff", ".jp2") else (image,):
            try:
                good, data = cv2.imencode(suffix, pixels)
            except cv2.error:  # a kind that this build does not write
                continue
            if good:
                found.append((suffix, data.tobytes()))
    writer = cv2.VideoWriter(str(folder / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for shift in range(4):
        writer.write(np.roll(image, shift, 1))
    writer.release()
    return [*found, (".avi", (folder / "v.avi").read_bytes())]


def image_cases(folder: Path, random: Random, count: int) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield cases that read a changed file as `run` does."""
    files = originals(folder)
    for number in range(count):
        suffix, data = random.choice(files)
        if number % 8 == 0:
            what, suffix, content = _declared(random)
        else:
            what, content = _changed(data, random)
        file = folder / f"image{suffix}"
        file.write_bytes(content)
        yield f"{suffix}: {what}", functools.partial(_read, file), len(content)


def _changed(data: bytes, random: Random) -> tuple[str, bytes]:
    content = bytearray(data)
    kind = random.choice(("bytes", "head", "cut", "doubled", "sizes"))
    if kind == "cut":
        return kind, bytes(content[: random.randrange(len(content))])
    if kind == "doubled":
        place = random.randrange(len(content))
        return kind, bytes(content[:place] + content[place // 2 :])
    if kind == "sizes":  # four bytes of the head become a large number
        place = random.randrange(4, min(64, len(content) - 4))
        content[place : place + 4] = struct.pack(
            random.choice("<>") + "I", random.choice((2**16, 2**20, 2**31 - 1, 2**32 - 1))
        )
        return kind, bytes(content)
    most = len(content) if kind == "bytes" else min(100, len(content))
    for _ in range(random.choice((1, 4, 30))):
        content[random.randrange(most)] = random.randrange(256)
    return kind, bytes(content)


def _declared(random: Random) -> tuple[str, str, bytes]:
    """Return a file that is whole, of few bytes, and declares very many pixels."""
    width, height = random.choice(
        ((11000, 11000), (20000, 20000), (27000, 27000), (1_000_000, 1000), (60000, 60000), (65535, 65535))
    )
    depth = random.choice((1, 8, 16))
    kind = random.choice(("png", "ppm", "bmp", "gif"))
    if kind == "ppm":
        return f"{width} x {height}", ".ppm", f"P6\n{width} {height}\n255\n".encode() + bytes(1000)
    if kind == "bmp":
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        return f"{width} x {height}", ".bmp", b"BM" + struct.pack("<IHHI", 1054, 0, 0, 54) + head + bytes(1000)
    if kind == "gif":
        size = struct.pack("<HH", min(width, 65535), min(height, 65535))
        frame = b"\x2c\0\0\0\0" + size + b"\0\x02\x02\x44\x01\0"
        head = b"GIF89a" + size + b"\x80\0\0" + bytes(6)
        return f"{width} x {height}", ".gif", head + frame * random.choice((1, 1000)) + b"\x3b"
    lines = min(height, 200) if depth == 16 else min(height, 2000)
    data = zlib.compress(bytes((width * depth + 7) // 8 + 1) * lines, 1)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return f"{width} x {height}, {depth} bits", ".png", b"\x89PNG\r\n\x1a\n" + body


def _read(file: Path) -> None:
    for frame in ImageReader().frames([file]):
        assert frame.raw.dtype == np.uint8
        assert frame.raw.shape[2] == 3
