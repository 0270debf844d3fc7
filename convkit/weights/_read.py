"""Loading weights: what `torch.save` wrote, safetensors files, and folders of shards."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from convkit._documents import parse_json, read_bounded
from convkit.errors import CheckpointError, EnvironmentProblem, listing
from convkit.weights._inert import plain_objects, stand_ins
from convkit.weights._kinds import FOLDER, SAFETENSORS, ZIP, identify, resave
from convkit.weights._pickles import foreign_names, global_names

__all__ = ["read_weights"]

_SINGLE = "*.safetensors"
_INDEX = "*.index.json"
"""The table of a model in several files: which of them contains each tensor."""


_RAISED = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError,
    OSError, RuntimeError, TypeError, ValueError, pickle.PickleError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What bytes that were not meant for it make an unpickler raise."""


def read_weights(path: Path | str) -> Any:
    """Return the content of a weights file: tensors on the CPU in plain Python containers.

    Read are both formats of `torch.save`, safetensors files (a dictionary of tensors by name), and folders with one
    safetensors file or with the shards of an index such as ``model.safetensors.index.json`` (one dictionary of all).
    Nothing in a file is ever executed. Of Python objects, numbers, texts, NumPy scalars and arrays and
    `argparse.Namespace` are read; dates, paths and the settings of common training frameworks become dictionaries or
    objects without behaviour. A file that needs others is refused, and the message names them.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or not safe to read.
        EnvironmentProblem: the package that reads this kind of file is not installed.
    """
    path = Path(path)
    if re.search(r"-\d+-of-\d+$", path.stem) and any(path.parent.glob(_INDEX)):
        raise CheckpointError(
            f"{path} is one of several files of a model.",
            hint=f"Give their folder, {path.parent}, which has the index.",
        )
    return _read(path)


def _read(path: Path) -> Any:
    kind = identify(path)
    if kind == FOLDER:
        return _read_folder(path)
    if kind == SAFETENSORS:
        return _read_safetensors(path)
    try:
        try:
            return _load(path, kind, plain_objects())
        except pickle.UnpicklingError:
            # Only a file that contains other objects is looked through for their names, which takes time.
            return _load(path, kind, [*plain_objects(), *stand_ins(global_names(path, zipped=kind == ZIP))])
    except _RAISED as error:
        names = foreign_names(path, zipped=kind == ZIP)
        if names:
            raise CheckpointError(
                f"{path} is refused: reading it means to run {listing(names)}.",
                hint=resave("If you trust it, open it where it was made")
                + " convkit runs no code from a weights file.",
            ) from None
        if "Can only build" in str(error):
            raise CheckpointError(
                f"{path} contains an array of Python objects or a structured one, which is not read.",
                hint=resave("If you trust it, open it where it was made"),
            ) from None
        raise _damaged(path, "PyTorch", error) from error


def _load(path: Path, kind: str, objects: list[Any]) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals(objects):
        warnings.simplefilter("ignore", UserWarning)  # of damaged files, which end in an error
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == ZIP)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise EnvironmentProblem(
            f"{path} is a safetensors file, and the package that reads it is not installed.",
            hint='pip install "convkit[safetensors]"',
        ) from error
    try:
        tensors: dict[str, torch.Tensor] = load_file(path, device="cpu")
    except (SafetensorError, *_RAISED) as error:
        raise _damaged(path, "safetensors", error) from error
    return tensors


def _read_folder(folder: Path) -> dict[str, torch.Tensor]:
    try:
        content = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be read: {error.strerror or error}.", hint="Check its permissions."
        ) from error
    indices = sorted((path for path in content if path.match(_INDEX)), key=lambda path: "safetensors" not in path.name)
    if indices:
        return _read_shards(folder, indices[0])
    files = [path for path in content if path.match(_SINGLE)]
    if len(files) == 1:
        return _read_safetensors(files[0])
    weights = files or [path for path in content if path.suffix in (".pth", ".pt", ".bin", ".ckpt")]
    raise CheckpointError(
        f"{folder} is a folder with {'several' if files else 'no'} safetensors files and no index.",
        hint=f"Give one file of it: {listing(path.name for path in weights)}."
        if weights
        else "Give the weights file, for example model_best.pth.",
    )


def _read_shards(folder: Path, index: Path) -> dict[str, torch.Tensor]:
    try:
        table = parse_json(read_bounded(index))["weight_map"]
        pairs = {str(tensor): Path(file) for tensor, file in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(index, "convkit", error) from error
    found: dict[str, torch.Tensor] = {}
    for file in sorted(set(pairs.values())):
        if file.name != str(file) or not (folder / file).is_file():
            raise CheckpointError(
                f"{index} names {str(file)!r}, which is not a file of the same folder.",
                hint="Download the folder again, with all its files.",
            )
        content = _read(folder / file)
        names = [tensor for tensor, place in pairs.items() if place == file]
        missing = [tensor for tensor in names if not isinstance(content, Mapping) or tensor not in content]
        if missing:
            raise CheckpointError(
                f"{folder / file} lacks {listing(missing)}, which {index.name} says it contains.",
                hint="Download the folder again: its files belong to different versions.",
            )
        found.update((tensor, content[tensor]) for tensor in names)
    return {tensor: found[tensor] for tensor in pairs}


def _damaged(path: Path, reader: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or cut off: {reader} cannot read it ({type(error).__name__}).",
        hint="Download the file again, and check that its size is the published one.",
    )
