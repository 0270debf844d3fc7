"""The raw inputs of a proof: the user's own files, or what the adapter offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convkit._text import printable
from convkit.errors import AdapterError, blamed_on, named
from convkit.model import Adapter, ModelSpec
from convkit.plugins import manager
from convkit.processing import find_preprocess

__all__ = ["RawInputs", "adapter_inputs", "own_inputs"]


@dataclass(frozen=True)
class RawInputs:
    """The raw inputs of a proof, a name for each, where they all come from, and whether that is the adapter."""

    values: Sequence[Any]
    names: Sequence[str]
    origin: str
    by_adapter: bool = False


def own_inputs(spec: ModelSpec, path: Path, count: int) -> RawInputs:
    """Return up to ``count`` inputs of a file or folder, evenly chosen, read by the preprocess's own reader.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    preprocess = find_preprocess(spec.preprocess)
    reader = preprocess.reader
    files = [path] if path.is_file() else reader.find(path)
    count = min(len(files), count)
    chosen = [files[index * len(files) // count] for index in range(count)]
    with blamed_on(f"read() of the reader {type(reader).__name__}", manager().origin(preprocess)):
        values = [reader.read(file) for file in chosen]
    return RawInputs(
        values,
        [printable(file.name) for file in chosen],
        f"{count} {reader.noun}{'' if count == 1 else 's'} from {printable(path.name)}",
    )


def adapter_inputs(adapter: Adapter, spec: ModelSpec, count: int, seed: int) -> RawInputs:
    """Return the samples that the adapter offers.

    Raises:
        AdapterError: it offers none.
    """
    what, plugin = f"samples() of adapter {adapter.name!r}", manager().origin(adapter)
    with blamed_on(what, plugin):
        values = list(adapter.samples(spec, count, seed))
    if not values:
        raise AdapterError(
            f"{named(what, plugin)} returned no samples.", hint="Adapter.samples must return at least one raw input."
        )
    plural = "" if len(values) == 1 else "s"
    return RawInputs(
        values,
        [f"sample {index}" for index in range(len(values))],
        f"{len(values)} sample{plural} of the adapter, seed {seed}",
        by_adapter=True,
    )
