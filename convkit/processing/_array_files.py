"""Arrays in ``.npz`` files of any origin, read within bounds and without unpickling anything."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

__all__ = ["COMPRESSED_FROM", "most_bytes", "read_arrays"]

COMPRESSED_FROM = 512 << 20
"""Bytes of arrays from which on a file is written uncompressed, so that its own size says how large its content is."""
_RATIO = 4
_HEADER = 10_000
"""Bytes of the largest header of an array: NumPy's own limit."""


def most_bytes(size: int) -> int:
    """Return how large the arrays in a file of ``size`` bytes may be: half a gigabyte, and more in large files."""
    return COMPRESSED_FROM + _RATIO * size


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, contains objects, or has arrays that are larger than `most_bytes`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total, most = sum(member.file_size for member in members), most_bytes(path.stat().st_size)
            if total > most:
                raise ValueError(f"its arrays have {total:,} bytes, more than {most:,} in a file of this size")
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, LookupError) as error:
        raise ValueError(str(error) or "it is damaged") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} contains Python objects")
        data = stream.read(member.file_size + 1)
    count = 1
    for extent in shape:
        count *= extent
    if len(data) != count * dtype.itemsize or not dtype.itemsize:
        raise ValueError(f"{member.filename} has not as many bytes as its shape {shape} needs")
    array = np.frombuffer(bytearray(data), dtype)  # of a buffer that may be written to
    return array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        found = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER)
    elif version == (2, 0):
        found = np.lib.format.read_array_header_2_0(stream, max_header_size=_HEADER)
    else:
        raise ValueError(f"it has arrays of version {version} of the format")
    shape, fortran, dtype = found
    if any(extent < 0 for extent in shape):
        raise ValueError("it has an array with a negative extent")
    return shape, fortran, dtype
