"""Loading what `torch.save` wrote, tensors only."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convkit.errors import CheckpointError
from convkit.weights._kinds import ZIP, identify, unsafe

__all__ = ["read_weights"]


def read_weights(path: Path | str) -> Any:
    """Return what `torch.save` wrote to ``path``: tensors on the CPU in plain Python containers.

    Both formats of `torch.save` are read. Nothing in the file is ever executed: one that needs
    more than tensors, numbers, texts and NumPy scalars is refused, and the message names what it
    needs.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or not safe to read.
    """
    path = Path(path)
    serialisation = identify(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalars()):
            warnings.simplefilter("ignore", UserWarning)  # of damaged files, which end in the error below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=serialisation == ZIP)
    except Exception as error:  # bytes that were not meant for it can make the unpickler raise anything
        refused = unsafe(path, serialisation)
        if refused is not None:
            raise refused from None
        raise CheckpointError(
            f"{path} is damaged or cut off: PyTorch cannot read it ({type(error).__name__}).",
            hint="Download the file again, and check that its size is the published one.",
        ) from error


def _numpy_scalars() -> list[Any]:
    """Return what unpickles a NumPy scalar, such as the epoch or the best score, under its old and new name."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd")]
