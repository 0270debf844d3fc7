"""A predictor: preprocess, engine and decode of an artifact."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from convkit.artifact import Artifact, spec_from_manifest
from convkit.backends import Coverage, Session
from convkit.errors import ConversionError, InputError, NotFiniteError
from convkit.model import ModelSpec
from convkit.processing import (
    Decode,
    Prepared,
    Preprocess,
    Reader,
    collate,
    decode_batch,
    find_decode,
    find_preprocess,
    item_sizes,
    prepare,
    take_items,
)
from convkit.results import Result
from convkit.runtime._batch_size import fitting_batch, memory_of
from convkit.runtime._finite import FiniteCheck, Origins

__all__ = ["Predictor", "batches", "refuse"]


class Predictor:
    """Runs raw inputs through an artifact; threads may share one, they take turns at the engine.

    ``preprocess`` and ``decode`` replace those that the artifact names, for a proof that has to catch wrong ones.
    `load` sets ``backend``, the name of what runs, and ``coverage``, what was proved of it.
    """

    backend: str = ""
    coverage: Coverage = Coverage()

    def __init__(
        self,
        artifact: Artifact,
        session: Session,
        *,
        preprocess: Preprocess | None = None,
        decode: Decode | None = None,
    ) -> None:
        self.artifact = artifact
        self.session = session
        self.spec: ModelSpec = spec_from_manifest(artifact.manifest).with_types(session.edges)
        self._preprocess = preprocess or find_preprocess(self.spec.preprocess)
        self._decode = decode or find_decode(self.spec.decode)
        self._finite = FiniteCheck(artifact, self.spec.outputs)
        self._lock = threading.Lock()
        self._fitting: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
        self.batch_min, self.batch_max = self.spec.batch.min, self.spec.batch.max

    def noted(self, coverage: Coverage) -> Coverage:
        """Return what is proved of the engine with a note on what the predictor does besides; the default has none."""
        return coverage

    @property
    def unproved(self) -> str:
        """Why no proof covers what runs here; empty where one does."""
        return self.coverage.reason

    @property
    def reader(self) -> Reader:
        """What reads raw inputs from files."""
        return self._preprocess.reader

    @property
    def decodes(self) -> bool:
        """Whether there are results; a model without decode has only `outputs`."""
        return self._decode is not None

    def __call__(self, inputs: Any) -> Any:
        """Return the result of one raw input, or a list of results for a list of them.

        For models that take images, an image is a path, the bytes of a file, a uint8 array H x W x 3 in BGR order
        (grey, alpha and 16-bit arrays are converted), a PIL image, or a CPU tensor (torch, DLPack).

        Raises:
            InputError: an input cannot be read, or is not what the model takes.
            NotFiniteError: the engine returned NaN or infinity for an input, which is named.
        """
        return self.predict([inputs])[0] if self.reader.is_single(inputs) else self.predict(inputs)

    def predict(self, inputs: Iterable[Any]) -> list[Result]:
        """Return one result for each raw input, in order."""
        return list(self.stream(inputs))

    def stream(self, inputs: Iterable[Any], *, batch: int = 1) -> Iterator[Result]:
        """Yield one result for each raw input, holding no more than ``batch`` of them at a time."""
        origins = Origins()
        with origins.naming():
            for items in batches(map(self.prepare, origins.note(inputs)), self._size(batch), self._alike):
                for result in self.run(items):
                    origins.answered()
                    yield result

    def outputs(self, inputs: Any, *, batch: int = 1) -> Any:
        """Return the outputs of the model by name, undecoded, without the batch axis.

        One raw input gives one dict of arrays, a list of them a list of dicts.

        Raises:
            InputError: an input cannot be read, or is not what the model takes.
        """
        if self.reader.is_single(inputs):
            return next(self.stream_outputs([inputs]))
        return list(self.stream_outputs(inputs, batch=batch))

    def stream_outputs(self, inputs: Iterable[Any], *, batch: int = 1) -> Iterator[dict[str, np.ndarray]]:
        """Yield the outputs of each raw input by name, without the batch axis."""
        for items in batches(map(self.prepare, inputs), self._size(batch), self._alike):
            outputs = self._run(items)
            for index in range(len(items)):
                yield take_items(self.spec.outputs, outputs, index)

    def fitting_batch(self, raw: Any) -> int:
        """Return the largest batch of inputs like this one that the artifact allows and memory has room for.

        It is estimated from small batches of the input; half of the memory that is free may be taken.
        An input that cannot be run gives the smallest batch.
        """
        flow = self.stream if self.decodes else self.stream_outputs

        def trial(size: int) -> None:
            deque(flow([raw] * size, batch=size), maxlen=0)

        with suppress(InputError, NotFiniteError):
            return fitting_batch(trial, memory_of(self.session.device), self.batch_min, self.batch_max)
        return self.batch_min

    def trouble(self, outputs: Mapping[str, np.ndarray]) -> str:
        """Return which outputs of an input, as `outputs` returns them, have NaN or infinity; empty where none has.

        Infinity is no trouble where the float64 reference has it too.
        """
        return self._finite.trouble(outputs)

    def prepare(self, raw: Any) -> Prepared:
        """Return one raw input as input tensors, without the batch axis."""
        value = self.reader.accept(raw)
        try:
            prepared = prepare(self.spec, self._preprocess, value)
            self._check_sizes({name: tensor.shape for name, tensor in prepared.tensors.items()})
        except InputError as error:
            refuse(error, raw)
        return prepared

    def run(self, prepared: Sequence[Prepared]) -> list[Result]:
        """Return the results of prepared inputs; neighbours that can share a batch do.

        Raises:
            NotFiniteError: the engine returned NaN or infinity for one of them.
        """
        if self._decode is None:
            raise ConversionError(
                "This model has no decode, so there are no results.",
                hint="Use predictor.outputs(...), or `convkit run --npz FOLDER`.",
            )
        results: list[Result] = []
        for items in batches(prepared, self.batch_max, self._alike):
            outputs = self._run(items)
            try:
                self._finite(outputs)
            except NotFiniteError as error:
                error.row += len(results)
                raise
            results.extend(decode_batch(self._decode, outputs, [item.meta for item in items]))
        return results

    def _run(self, items: Sequence[Prepared]) -> dict[str, np.ndarray]:
        """Return the outputs of a batch, filled up where the engine takes no fewer."""
        padded = [*items, *[items[-1]] * (self.batch_min - len(items))]
        with self._lock:
            outputs = self.session.run(collate(self.spec.inputs, padded))
        return take_items(self.spec.outputs, outputs, slice(0, len(items)))

    def _alike(self, item: Prepared) -> dict[str, Any]:
        """Return what items of one batch have in common: shapes, and the values of inputs without a batch axis."""
        tensors = ((tensor, item.tensors[tensor.name]) for tensor in self.spec.inputs)
        return {tensor.name: (array.shape, b"" if tensor.batched else array.tobytes()) for tensor, array in tensors}

    def _check_sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse input tensors that the model was not proved for; shapes that fit are remembered."""
        key = tuple(shapes.items())
        if key not in self._fitting:
            item_sizes(self.spec, self._preprocess, shapes)
            self._fitting.add(key)

    def _size(self, batch: int) -> int:
        return min(max(batch, self.batch_min), self.batch_max)

    def close(self) -> None:
        """Free the engine."""
        self.session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        model = self.artifact.manifest["model"]
        return f"Predictor({self.artifact.manifest['adapter']['name']} {model['variant']} on {self.session.device})"


def refuse(error: InputError, raw: Any) -> NoReturn:
    """Raise what is wrong with a raw input, with its path before it where it was given as one."""
    if isinstance(raw, str | Path):
        raise InputError(f"{raw}: {error.message}", hint=error.hint) from error
    raise error


def batches(items: Iterable[Any], size: int, kind: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """Yield up to ``size`` items of one kind at a time, in order."""
    pending: list[Any] = []
    for item in items:
        if pending and (len(pending) == size or kind(item) != kind(pending[0])):
            yield pending
            pending = []
        pending.append(item)
        if len(pending) == size:
            yield pending
            pending = []
    if pending:
        yield pending
