"""How many images a GIF contains, counted without decoding any."""

from __future__ import annotations

__all__ = ["gif_pixels"]

_EXTENSION, _IMAGE = 0x21, 0x2C


def gif_pixels(data: bytes) -> int:
    """Return the pixels of all images of a GIF together, each as large as the canvas; 0 of anything that is no GIF."""
    if len(data) < 13 or not data.startswith((b"GIF87a", b"GIF89a")):
        return 0
    width, height = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    place, images = 13 + _colours(data[10]), 0
    while place < len(data):
        kind = data[place]
        if kind == _IMAGE and place + 9 < len(data):
            images += 1
            place = _behind_blocks(data, place + 10 + _colours(data[place + 9]) + 1)
        elif kind == _EXTENSION:
            place = _behind_blocks(data, place + 2)
        else:
            break
    return width * height * images


def _colours(flags: int) -> int:
    """Return the bytes of the table of colours that a byte of flags announces."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def _behind_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1
