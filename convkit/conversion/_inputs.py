"""The raw inputs of a proof: the user's own files, or what the adapter offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convkit._text import printable
from convkit.errors import AdapterError, blamed_on
from convkit.model import Adapter, ModelSpec
from convkit.processing import find_preprocess

__all__ = ["RawInputs", "adapter_inputs", "own_inputs"]


@dataclass(frozen=True)
class RawInputs:
    """The raw inputs of a proof, a name for each, and where they all come from."""

    values: Sequence[Any]
    names: Sequence[str]
    origin: str


def own_inputs(spec: ModelSpec, path: Path, count: int) -> RawInputs:
    """Return up to ``count`` inputs of a file or folder, evenly chosen, read by the preprocess's own reader.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    reader = find_preprocess(spec.preprocess).reader
    files = [path] if path.is_file() else reader.find(path)
    count = min(len(files), count)
    chosen = [files[index * len(files) // count] for index in range(count)]
    return RawInputs(
        [reader.read(file) for file in chosen],
        [printable(file.name) for file in chosen],
        f"{count} {reader.noun}{'' if count == 1 else 's'} from {printable(path.name)}",
    )


def adapter_inputs(adapter: Adapter, spec: ModelSpec, count: int, seed: int) -> RawInputs:
    """Return the samples that the adapter offers.

    Raises:
        AdapterError: it offers none.
    """
    with blamed_on(f"samples() of adapter {adapter.name!r}"):
        values = list(adapter.samples(spec, count, seed))
    if not values:
        raise AdapterError(
            f"Adapter {adapter.name!r} returned no samples.", hint="Adapter.samples must return at least one raw input."
        )
    plural = "" if len(values) == 1 else "s"
    return RawInputs(
        values,
        [f"sample {index}" for index in range(len(values))],
        f"{len(values)} sample{plural} of the adapter, seed {seed}",
    )
