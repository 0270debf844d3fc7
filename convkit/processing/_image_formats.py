"""What the bytes of a file say of it before it is decoded: another format, an end that is missing, several images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["several", "unreadable"]

_CONVERT = "Convert it to PNG or JPEG."
_BRANDS = {
    b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"heim": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC",
    b"crx ": "CR3",
}  # fmt: skip
"""Formats of images in the container of MP4, by the brand that it names first; AVIF is left to OpenCV."""
_OTHERS = (
    (b"%PDF", "is a PDF document", "Render its pages as images."),
    (b"8BPS", "is a Photoshop file", _CONVERT),
    (b"\xff\x0a", "is a JPEG XL image", _CONVERT),
    (b"\x00\x00\x00\x0cJXL ", "is a JPEG XL image", _CONVERT),
    (b"PK\x03\x04", "is a zip archive", "Unpack it first."),
    (b"\x1f\x8b", "is compressed with gzip", "Unpack it first."),
    (b"\x93NUMPY", "is a NumPy array", "Give the array itself from Python, or write it as PNG."),
    (b"version https://git-lfs", "is a Git LFS pointer, not the image", "Fetch it: git lfs pull."),
    (b"\x00\x05\x16\x07", "contains attributes that macOS keeps beside a file, and no image", "Leave it out."),
    (b"\x1aE\xdf\xa3", "is a video (Matroska or WebM)", "Give it a name that ends in .mkv or .webm."),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg")
_END = "The download or copy may have stopped early; fetch it again."


def unreadable(data: np.ndarray) -> tuple[str, str] | None:
    """Return what bytes (uint8 [N]) are that cannot be decoded as an image, and the remedy; None if they may be one.

    An image whose end is missing counts: OpenCV returns it with a grey or black rest.
    """
    head = data[:512].tobytes()
    for magic, what, cure in _OTHERS:
        if head.startswith(magic):
            return what, cure
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        if b"<svg" in text:
            return "is an SVG drawing", "Render it as PNG."
        return "is a web page, not an image", "The link led to a page: save the image itself."
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _BRANDS:
            return f"is a {_BRANDS[brand]} image, which OpenCV does not read", _CONVERT
        if brand not in (b"avif", b"avis"):
            return "is a video", "Give it a name that ends in .mp4 or .mov."
    if _cut_off(data, head):
        return "is cut off: the end of the image is missing", _END
    return None


def _cut_off(data: np.ndarray, head: bytes) -> bool:
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg_cut_off(data)
    if head.startswith(b"\x89PNG"):
        return _png_cut_off(data)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > data.size
    return False


def _png_cut_off(data: np.ndarray) -> bool:
    """Return whether a PNG ends before its end chunk; OpenCV allocates what a chunk declares before it reads that."""
    place = 8
    while place + 8 <= data.size:
        head = data[place : place + 8].tobytes()
        place += 12 + int.from_bytes(head[:4], "big")
        if head[4:] == b"IEND":
            return place - 4 > data.size
    return True


def _jpeg_cut_off(data: np.ndarray) -> bool:
    """Return whether a JPEG has no end marker behind its first scan; the pixels before it cannot contain one."""
    place = 2
    while place + 4 <= data.size and data[place] == 0xFF:
        marker = int(data[place + 1])
        if marker == 0xDA:
            return data[place:].tobytes().find(b"\xff\xd9") < 0
        if marker == 0xFF:  # a byte that fills up
            place += 1
            continue
        place += 2 + int(data[place + 2]) * 256 + int(data[place + 3])
    return place >= data.size


def several(path: Path) -> bool:
    """Return whether a file is an animated PNG or WebP, or a TIFF of several pages."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith(b"RIFF"):
        return head[12:16] == b"VP8X" and bool(head[20] & 2)
    if head.startswith(b"\x89PNG"):
        return b"acTL" in head.partition(b"IDAT")[0]
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        import cv2

        return int(cv2.imcount(str(path))) > 1
    return False
