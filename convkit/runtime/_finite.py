"""NaN and infinity in what an engine returned: found before the decode makes "nothing found" of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from convkit.artifact import SAMPLES, Artifact
from convkit.errors import IntegrityError, NotFiniteError
from convkit.model import TensorSpec
from convkit.processing import read_arrays

__all__ = ["FiniteCheck", "Origins"]


class FiniteCheck:
    """Refuses outputs that are no numbers.

    Infinity counts as a number where the float64 reference has it too, for example where a network masks scores; the
    golden samples say so, and they are read when the first infinity comes.
    """

    def __init__(self, artifact: Artifact, outputs: Sequence[TensorSpec]) -> None:
        self._artifact = artifact
        self._batched = {output.name: output.batched for output in outputs}
        self._infinite: frozenset[str] | None = None

    def __call__(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Check the outputs of a batch; one finite array costs a tenth of a nanosecond a value.

        Raises:
            NotFiniteError: an output has NaN, or an infinity that the reference never has; ``row`` is the first item of
                the batch that it concerns.
        """
        for name, value in outputs.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                self._examine(name, value)

    def trouble(self, outputs: Mapping[str, np.ndarray]) -> str:
        """Return which outputs of one item are no numbers, for people; empty where all are."""
        found = []
        for name, value in outputs.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                what = "NaN" if np.isnan(value).any() else "" if name in self._allowed() else "infinity"
                found += [f"output {name!r} has {what}"] * bool(what)
        return ", ".join(found)

    def refuse(self, name: str, row: int, *, nan: bool) -> None:
        """Raise for an output of an item, unless it is infinite where the reference is too."""
        if nan or name not in self._allowed():
            raise NotFiniteError.found(name, "NaN" if nan else "infinity", row)

    def _examine(self, name: str, value: np.ndarray) -> None:
        rows = value.reshape(len(value), -1) if self._batched.get(name, True) else value.reshape(1, -1)
        for found, nan in ((np.isnan(rows), True), (np.isinf(rows), False)):
            bad = np.flatnonzero(found.any(axis=1))
            if bad.size:
                self.refuse(name, int(bad[0]), nan=nan)

    def _allowed(self) -> frozenset[str]:
        if self._infinite is None:
            file = self._artifact.file(SAMPLES)
            try:
                arrays = read_arrays(file)
            except (OSError, ValueError) as error:
                raise IntegrityError(
                    f"{file} cannot be read: {error}", hint="Restore the artifact or convert again."
                ) from error
            self._infinite = frozenset(
                key.partition("/output/")[2]
                for key, array in arrays.items()
                if "/output/" in key and array.dtype.kind == "f" and np.isinf(array).any()
            )
        return self._infinite


class Origins:
    """Remembers which raw inputs of a stream have no result yet, to name the one that an error concerns."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._count = 0

    def note(self, inputs: Iterable[Any]) -> Iterator[Any]:
        """Yield the inputs, and remember the path or the number of each."""
        for raw in inputs:
            self._count += 1
            self._waiting.append(str(raw) if isinstance(raw, str | Path) else f"input {self._count}")
            yield raw

    def answered(self) -> None:
        """Forget the first input: its result is there."""
        self._waiting.popleft()

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Put the input before what is wrong with outputs; its row counts from the first one without a result."""
        try:
            yield
        except NotFiniteError as error:
            source = self._waiting[error.row] if error.row < len(self._waiting) else ""
            raise error.of(source) from None
