"""The inputs that a quantised graph is calibrated with: read from files, prepared as the adapter does, and recorded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit._text import printable
from convkit.errors import ArtifactError, ConvkitError, InputError
from convkit.files import sha256
from convkit.graph import RewriteRecord
from convkit.graph.precision import quantize
from convkit.model import ModelSpec
from convkit.processing import Prepared, collate, find_preprocess, prepare
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    import onnx

__all__ = [
    "MIN_CALIBRATION",
    "CalibrationFiles",
    "CalibrationInputs",
    "CalibrationSamples",
    "CalibrationSet",
    "InputRange",
    "quantize_with",
]

MIN_CALIBRATION = 8
"""Different inputs that a calibration needs at least: fewer say little of the values that a network meets."""
_USUAL = 64


@dataclass(frozen=True)
class InputRange:
    """The type of a prepared input, and its lowest and highest value over all files."""

    dtype: str
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationSet:
    """What a graph was calibrated with: the method, the name and hash of each input, and the arrays made of them.

    ``origin`` says where the inputs come from; the hash of one without a file is that of its arrays.
    """

    method: str
    names: tuple[str, ...]
    sha256: tuple[str, ...]
    inputs: Mapping[str, InputRange] = field(default_factory=dict)
    origin: str = ""

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self.names)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {
            "method": self.method,
            "origin": self.origin,
            "count": self.count,
            "files": [{"name": name, "sha256": value} for name, value in zip(self.names, self.sha256, strict=True)],
            "inputs": {
                name: {"dtype": found.dtype, "low": found.low, "high": found.high}
                for name, found in self.inputs.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CalibrationSet:
        """Return the record that `to_json` wrote.

        Raises:
            ArtifactError: it is something else.
        """
        try:
            files = [(str(entry["name"]), str(entry["sha256"])) for entry in data["files"]]
            inputs = {
                str(name): InputRange(str(entry["dtype"]), float(entry["low"]), float(entry["high"]))
                for name, entry in data["inputs"].items()
            }
            if data["count"] != len(files):
                raise ValueError(f"{data['count']} files are announced, {len(files)} are listed")
            names, hashes = tuple(name for name, _ in files), tuple(value for _, value in files)
            return cls(str(data["method"]), names, hashes, inputs, str(data.get("origin", "")))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"The record of the calibration is not readable: {error!r}.", hint="Convert the model again."
            ) from error


class CalibrationInputs(ABC):
    """Inputs for calibration, prepared one at a time whenever they are iterated.

    ``names`` and ``hashes`` are those of each, and ``origin`` where they come from.
    """

    names: Sequence[str]
    hashes: Sequence[str]
    origin: str

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._ranges: dict[str, tuple[str, float, float]] = {}

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def prepared(self, place: int) -> Prepared:
        """Return the input in this place, prepared.

        Raises:
            InputError: it cannot be read.
        """

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the arrays of each input, in a batch of the smallest size that the model takes."""
        for place in range(len(self)):
            feed = collate(self.spec.inputs, [self.prepared(place)] * self.spec.batch.min)
            for name, value in feed.items():
                self._note(name, value)
            yield feed

    def announced(self, progress: Progress) -> Iterator[dict[str, np.ndarray]]:
        """Yield the same, each announced."""
        for number, feed in enumerate(self):
            progress("calibrating", number, len(self))
            yield feed

    def _note(self, name: str, value: np.ndarray) -> None:
        low, high = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
        _, before, after = self._ranges.get(name, ("", low, high))
        self._ranges[name] = (str(value.dtype), min(low, before), max(high, after))

    def record(self, method: str) -> CalibrationSet:
        """Return what the inputs and the arrays made of them were, after they were iterated."""
        ranges = {name: InputRange(*found) for name, found in self._ranges.items()}
        return CalibrationSet(method, tuple(self.names), tuple(self.hashes), ranges, self.origin)

    def _check_count(self, where: str, noun: str, remedy: str) -> None:
        kept, different = len(self), len(set(self.hashes))
        if different < MIN_CALIBRATION:
            alike = "" if different == kept else f" different of {kept}"
            plural = "" if different == 1 else "s"
            raise InputError(
                f"{where} has {different}{alike} {noun}{plural}; int8 needs {MIN_CALIBRATION} for calibration.",
                hint=remedy,
            )


class CalibrationFiles(CalibrationInputs):
    """Inputs for calibration from a folder.

    Every file is read once to begin with, so that one that is broken is known before any work is done.
    """

    def __init__(self, spec: ModelSpec, folder: Path, count: int = _USUAL) -> None:
        """Choose up to ``count`` files of a folder, evenly.

        Raises:
            InputError: there are too few different ones, or one cannot be read.
        """
        super().__init__(spec)
        self._preprocess = find_preprocess(spec.preprocess)
        reader = self._preprocess.reader
        found = [folder] if folder.is_file() else reader.find(folder)
        kept = min(len(found), count)
        self.files = [found[index * len(found) // kept] for index in range(kept)]
        self.hashes = [sha256(file) for file in self.files]
        self.names = [printable(file.name) for file in self.files]
        self.origin = f"{kept} {reader.noun}{'' if kept == 1 else 's'} from {printable(folder.name)}"
        remedy = f"Give a folder with {MIN_CALIBRATION} or more, better {_USUAL}, like those of later use."
        self._check_count(printable(folder.name), reader.noun, remedy)
        for file in self.files:
            reader.read(file)

    def prepared(self, place: int) -> Prepared:
        """Read and prepare a file."""
        file = self.files[place]
        raw = self._preprocess.reader.read(file)
        try:
            return prepare(self.spec, self._preprocess, raw)
        except ConvkitError as error:
            raise type(error)(f"{printable(file.name)}: {error.message}", hint=error.hint) from error


class CalibrationSamples(CalibrationInputs):
    """The samples of a proof as inputs for calibration, where no others are given."""

    def __init__(self, spec: ModelSpec, items: Sequence[Prepared], names: Sequence[str], origin: str) -> None:
        """Take prepared inputs.

        Raises:
            InputError: there are too few different ones.
        """
        super().__init__(spec)
        self._items, self.names, self.origin = items, [printable(name) for name in names], origin
        self.hashes = [_array_hash(item) for item in items]
        remedy = f"Give a folder of {_USUAL} inputs like those of later use (--calibrate DIR), or more --samples."
        self._check_count("The proof", "sample", remedy)

    def prepared(self, place: int) -> Prepared:
        """Return an input."""
        return self._items[place]


def _array_hash(item: Prepared) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(item.tensors.items()):
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def quantize_with(
    model: onnx.ModelProto,
    spec: ModelSpec,
    folder: Path,
    *,
    method: str = "percentile",
    low: str = "fp16",
    count: int = _USUAL,
    progress: Progress = silent,
) -> tuple[onnx.ModelProto, list[RewriteRecord], CalibrationSet]:
    """Return a model quantised with the inputs of a folder, what was changed, and what it was calibrated with.

    See `convkit.graph.precision.quantize` for the rest.

    Raises:
        InputError: there are too few inputs, or one cannot be read.
        SettingError, ConversionError, EnvironmentProblem: as `quantize` does.
    """
    files = CalibrationFiles(spec, folder, count)
    feeds = files.announced(progress)
    result, records = quantize(model, feeds, method=method, low=low)
    return result, records, files.record(method)
