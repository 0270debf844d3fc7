"""The inputs that a quantised graph is calibrated with: read from files, prepared as the adapter does, and recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
from convkit.processing import collate, find_preprocess, prepare
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    import onnx

__all__ = ["MIN_CALIBRATION", "CalibrationFiles", "CalibrationSet", "InputRange", "quantize_with"]

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
    """What a graph was calibrated with: the method, the name and hash of each file, and the inputs made of them."""

    method: str
    names: tuple[str, ...]
    sha256: tuple[str, ...]
    inputs: Mapping[str, InputRange] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self.names)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {
            "method": self.method,
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
            return cls(
                str(data["method"]), tuple(name for name, _ in files), tuple(value for _, value in files), inputs
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"The record of the calibration is not readable: {error!r}.", hint="Convert the model again."
            ) from error


class CalibrationFiles:
    """Inputs for calibration from a folder, prepared one at a time whenever they are iterated.

    Every file is read once to begin with, so that one that is broken is known before any work is done.
    """

    def __init__(self, spec: ModelSpec, folder: Path, count: int = _USUAL) -> None:
        """Choose up to ``count`` files of a folder, evenly.

        Raises:
            InputError: there are too few different ones, or one cannot be read.
        """
        self.spec = spec
        self._preprocess = find_preprocess(spec.preprocess)
        reader = self._preprocess.reader
        found = [folder] if folder.is_file() else reader.find(folder)
        kept = min(len(found), count)
        self.files = [found[index * len(found) // kept] for index in range(kept)]
        self.hashes = [sha256(file) for file in self.files]
        different = len(set(self.hashes))
        if different < MIN_CALIBRATION:
            alike = "" if different == kept else f" different of {kept}"
            plural = "" if different == 1 else "s"
            raise InputError(
                f"{printable(folder.name)} has {different}{alike} {reader.noun}{plural};"
                f" int8 needs {MIN_CALIBRATION} for calibration.",
                hint=f"Give a folder with {MIN_CALIBRATION} or more, better {_USUAL}, like those of later use.",
            )
        for file in self.files:
            reader.read(file)
        self._ranges: dict[str, tuple[str, float, float]] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the input arrays of each file, in a batch of the smallest size that the model takes."""
        for file in self.files:
            raw = self._preprocess.reader.read(file)
            try:
                prepared = prepare(self.spec, self._preprocess, raw)
            except ConvkitError as error:
                raise type(error)(f"{printable(file.name)}: {error.message}", hint=error.hint) from error
            feed = collate(self.spec.inputs, [prepared] * self.spec.batch.min)
            for name, value in feed.items():
                self._note(name, value)
            yield feed

    def _note(self, name: str, value: np.ndarray) -> None:
        low, high = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
        _, before, after = self._ranges.get(name, ("", low, high))
        self._ranges[name] = (str(value.dtype), min(low, before), max(high, after))

    def record(self, method: str) -> CalibrationSet:
        """Return what the files and the inputs made of them were, after they were iterated."""
        return CalibrationSet(
            method,
            tuple(printable(file.name) for file in self.files),
            tuple(self.hashes),
            {name: InputRange(*found) for name, found in self._ranges.items()},
        )


def quantize_with(
    model: onnx.ModelProto,
    spec: ModelSpec,
    folder: Path,
    *,
    method: str = "percentile",
    low: str = "fp16",
    exclude: Collection[str] = (),
    keep: Collection[str] = (),
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

    def counted() -> Iterator[dict[str, np.ndarray]]:
        for number, feed in enumerate(files):
            progress("calibrating", number, len(files))
            yield feed

    result, records = quantize(model, counted(), method=method, low=low, exclude=exclude, keep=keep)
    return result, records, files.record(method)
