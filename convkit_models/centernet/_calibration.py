"""The matrix of the camera that each image comes with, from files of KITTI or lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from convkit.errors import InputError
from convkit.processing import ImageReader

__all__ = ["CalibratedImage", "CalibratedReader", "check_calibration"]

COMPANION = "calib"
"""What files of KITTI are named after, and the field in the lists that the original makes of them."""
_HINT = "Give P2, the 3 x 4 matrix of the camera, row by row."


class CalibratedImage(np.ndarray):
    """Pixels (uint8 [H, W, 3], BGR) with ``calibration``, 12 numbers: the matrix of the camera, row by row."""

    calibration: tuple[float, ...] = ()

    @classmethod
    def of(cls, pixels: np.ndarray, calibration: Sequence[float]) -> CalibratedImage:
        """Return the pixels, which are not copied, with a matrix."""
        image = pixels.view(cls)
        image.calibration = tuple(calibration)
        return image


class CalibratedReader(ImageReader):
    """Images with or without the matrix of their camera: a mapping with ``image`` and ``calib`` gives both."""

    companions: ClassVar[tuple[str, ...]] = (COMPANION,)

    def accept(self, value: Any) -> np.ndarray:
        """Return pixels; of a mapping with ``image`` and ``calib`` a `CalibratedImage`.

        Raises:
            InputError: the matrix is none.
        """
        if isinstance(value, CalibratedImage):
            return value
        if isinstance(value, Mapping):
            if set(value) != {"image", COMPANION}:
                found = ", ".join(map(repr, value)) or "nothing"
                raise InputError(f"An input has {found}.", hint="Give 'image' and 'calib', or an image alone.")
            return self.join(super().accept(value["image"]), {COMPANION: value[COMPANION]})
        return super().accept(value)

    def join(self, raw: Any, companions: Mapping[str, Any]) -> CalibratedImage:
        """Return an image with its matrix: a file of KITTI, or numbers in any nesting.

        Raises:
            InputError: it is no such file, or not such a matrix.
        """
        value = companions[COMPANION]
        numbers, source = (_read(value), str(value)) if isinstance(value, str | Path) else (value, "The calibration")
        try:
            matrix = np.asarray(numbers, np.float64).reshape(-1).tolist()
        except (TypeError, ValueError) as error:
            raise InputError(f"{source} is no matrix of numbers.", hint=_HINT) from error
        if problem := check_calibration(matrix):
            raise InputError(f"{source} {problem}.", hint=_HINT)
        return CalibratedImage.of(raw, matrix)


def check_calibration(numbers: Sequence[float]) -> str:
    """Return what is wrong with the numbers of a matrix, empty where nothing is."""
    if len(numbers) != 12:
        return f"has {len(numbers)} numbers instead of 12"
    if not all(map(math.isfinite, numbers)):
        return "has NaN or infinity"
    return "has a focal length of 0" if not numbers[0] or not numbers[5] else ""


def _read(path: str | Path) -> list[str]:
    """Return the numbers of a file: those of its line ``P2:``, or all of it where it has only numbers.

    Raises:
        InputError: it cannot be read, or has neither.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a text.", hint="Check the path.") from error
    lines = [line.partition(":") for line in text.splitlines()]
    for name, _, rest in lines:
        if name.strip() == "P2":
            return rest.split()
    if any(separator for _, separator, _ in lines):
        raise InputError(f"{path} has no line P2.", hint="In files of KITTI it is that of the left camera.")
    return text.replace(",", " ").split()
