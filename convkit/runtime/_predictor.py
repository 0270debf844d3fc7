"""load(): an artifact becomes a predictor: preprocess, engine, decode."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from convkit.artifact import Artifact, spec_from_manifest, verify_signature
from convkit.backends import Coverage, Session, coverage, open_artifact, proved_engine
from convkit.errors import ConversionError, InputError, NotFiniteError, ValidationError
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
from convkit.runtime._buffers import Item
from convkit.runtime._cuda import Cuda, on_gpu
from convkit.runtime._device_pipeline import DevicePipeline
from convkit.runtime._finite import FiniteCheck, Origins

__all__ = ["DevicePredictor", "Predictor", "batches", "load", "predictor_of"]


def load(
    path: Path | str,
    *,
    backend: str | None = None,
    device: str | None = None,
    verify: bool = True,
    unproved: bool = False,
    signed_by: Path | str | None = None,
    augment: Mapping[str, str] | None = None,
) -> Predictor:
    """Load an artifact as a predictor.

    ``backend`` and ``device`` are by default those that proved the artifact; another backend runs where it does by
    default: on ``cpu``, or ``cuda`` for TensorRT, which runs the engine that `convkit.conversion.build_engine` put into
    the artifact. On ``cuda`` (or ``cuda:N``) inputs go through the device pipeline as far as the adapter and the
    backend have device sides; see `DevicePredictor`. ``verify`` False skips the comparison of the files with their
    hashes. ``unproved`` opens a backend, device or kind of GPU that no proof covers; `Predictor.unproved` then says
    why none does. ``signed_by`` is a public key (PEM): what its owner did not sign is refused. ``augment`` are settings
    of test-time augmentation, by name, as the adapter has them: each input then goes through the engine in several
    views, and the results are made of all of them, on the host.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved; it lacks such an engine.
        ValidationError: the artifact was rejected by its proof, or no proof covers the backend on this device.
        SettingError: the key cannot be used, or the model has no such augmentation.
        EnvironmentProblem: the backend cannot run here, there is no such device, or no package for signatures.
    """
    artifact = Artifact.open(path)
    if signed_by is not None:
        verify_signature(artifact, Path(signed_by))
    if verify:
        artifact.verify()
    if not artifact.manifest["verdict"]["passed"]:
        raise ValidationError(
            f"{path} was rejected: {artifact.manifest['verdict']['headline']}.",
            hint=f"`convkit validate {path} -v` shows every check and where the error enters.",
        )
    backend, device = proved_engine(artifact, backend, device)
    session = open_artifact(artifact, backend, device=device, unproved=unproved, verify=verify)
    found = coverage(artifact, backend, device)
    with ExitStack() as unused:
        unused.callback(session.close)
        predictor = predictor_of(artifact, session, augment)
        unused.pop_all()
    predictor.backend, predictor.coverage = backend, predictor.noted(found)
    return predictor


def predictor_of(artifact: Artifact, session: Session, augment: Mapping[str, str] | None = None) -> Predictor:
    """Return the predictor that `load` makes of a session of an artifact, without asking whether it is proved.

    Raises:
        SettingError: the model has no test-time augmentation, or not with the settings ``augment``.
        EnvironmentProblem: the session is on a GPU for which cupy is missing.
    """
    if augment is not None:
        from convkit.runtime._augmented import AugmentedPredictor

        return AugmentedPredictor(artifact, session, augment)
    if session.device.partition(":")[0] == "cuda":
        return DevicePredictor(artifact, session)
    return Predictor(artifact, session)


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

        It is estimated: the input is run alone and in a batch of two, and half of the memory that is free may be taken.
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
            _refuse(error, raw)
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


class DevicePredictor(Predictor):
    """A predictor whose inputs go through the device pipeline.

    The payloads of a batch are copied to the GPU in one piece, and only the results come back. Between them run the
    adapter's preprocess, the engine and the adapter's decode, on one stream, from the third batch of a shape on in one
    CUDA graph where the engine can be captured. A preprocess or decode without a device side runs on the host, which
    is slower; an engine without one makes this a plain predictor.

    Inputs that are in the GPU's memory already (of torch, cupy, or with DLPack or ``__cuda_array_interface__``; images
    as uint8 [H, W, 3] in BGR order) are read there, without a copy, if the adapter's preprocess can do that. They must
    not change before their results are there.
    """

    def __init__(
        self,
        artifact: Artifact,
        session: Session,
        *,
        preprocess: Preprocess | None = None,
        decode: Decode | None = None,
    ) -> None:
        super().__init__(artifact, session, preprocess=preprocess, decode=decode)
        self.device = Cuda(session.device)
        self.pipeline = self._open_pipeline(session, self.device)

    def _open_pipeline(self, session: Session, device: Cuda) -> DevicePipeline | None:
        with device.active():
            engine = session.on_device(device.stream)
        if engine is None:
            return None
        return DevicePipeline(
            device, engine, self.spec, self._preprocess, self._decode, batch_min=self.batch_min, finite=self._finite
        )

    def predict(self, inputs: Iterable[Any]) -> list[Result]:
        """Return one result for each raw input, in order; as many go together as the artifact allows."""
        return list(self.stream(inputs, batch=self.batch_max))

    def stream(self, inputs: Iterable[Any], *, batch: int = 1) -> Iterator[Result]:
        """Yield one result for each raw input; while a batch is on the GPU the next one is packed.

        Streams of several threads take turns, batch by batch. Where the host decodes, one waits until the other is
        over.
        """
        if self.pipeline is None or self._decode is None:
            yield from super().stream(inputs, batch=batch)
            return
        origins = Origins()
        items = map(self._item, origins.note(inputs))
        with nullcontext() if self.pipeline.shared else self._lock, origins.naming():
            for result in self.pipeline.flow(batches(items, self._size(batch), lambda item: item.shapes)):
                origins.answered()
                yield result

    def prepare(self, raw: Any) -> Prepared:
        """Return one raw input as input tensors, without the batch axis; what is on the GPU is copied to the host."""
        if on_gpu(raw):
            raw = self.device.to_host(self.device.borrow(raw))
        return super().prepare(raw)

    def _item(self, raw: Any) -> Item:
        assert self.pipeline is not None
        make, value = (
            (self.pipeline.item_on_device, raw) if on_gpu(raw) else (self.pipeline.item, self.reader.accept(raw))
        )
        try:
            item = make(value)
            self._check_sizes(item.shapes)
        except InputError as error:
            _refuse(error, raw)
        return item

    def close(self) -> None:
        """Free the GPU's buffers and the engine."""
        if self.pipeline is not None:
            self.pipeline.close()
        super().close()


def _refuse(error: InputError, raw: Any) -> NoReturn:
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
