"""load(): an artifact becomes a predictor: preprocess, engine, decode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np

from convkit.artifact import Artifact, spec_from_manifest
from convkit.backends import Session, open_session
from convkit.errors import ConversionError, ImageError, KernelArgumentError, ValidationError
from convkit.model import ModelSpec
from convkit.processing import Prepared, as_bgr, find_decode, find_preprocess, read_image
from convkit.results import Result
from convkit.runtime._cuda import Cuda
from convkit.runtime._device_pipeline import Road

__all__ = ["GpuPredictor", "Predictor", "load"]

Image = np.ndarray | str | Path


def load(path: Path | str, *, backend: str = "onnxruntime", device: str = "cpu", verify: bool = True) -> Predictor:
    """Load an artifact as a predictor.

    On ``device="cuda"`` (or ``cuda:N``) images go the whole road on the GPU as far as the adapter and the
    backend have device sides; see `GpuPredictor`. ``verify`` False skips the comparison of the files with
    their hashes.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved.
        ValidationError: the artifact was rejected by its proof.
        EnvironmentProblem: the backend cannot run here, or there is no such device.
    """
    artifact = Artifact.open(path)
    if verify:
        artifact.verify()
    if not artifact.manifest["verdict"]["passed"]:
        raise ValidationError(
            f"{path} was rejected: {artifact.manifest['verdict']['headline']}.",
            hint=f"`convkit validate {path} -v` shows every check and where the error enters.",
        )
    session = open_session(backend, artifact.model, device=device)
    if device.partition(":")[0] == "cuda":
        return GpuPredictor(artifact, session)
    return Predictor(artifact, session)


class Predictor:
    """Runs images through an artifact."""

    def __init__(self, artifact: Artifact, session: Session) -> None:
        self.artifact = artifact
        self.session = session
        self.spec: ModelSpec = spec_from_manifest(artifact.manifest)
        name = artifact.manifest["adapter"]["name"]
        self._preprocess = find_preprocess(name, self.spec.preprocess)
        decode = find_decode(name, self.spec.decode)
        if decode is None:
            raise ConversionError(
                f"No plugin decodes {self.spec.decode.get('kind')!r} results.",
                hint=f"Install {artifact.manifest['adapter']['distribution']}, which brought this adapter.",
            )
        self._decode = decode
        batch = next((dim for dim in self.spec.dims if dim.name == "batch"), None)
        self.batch_min, self.batch_max = (batch.min, batch.max) if batch else (1, 1)

    def __call__(self, images: Image | Sequence[Image] | np.ndarray) -> Any:
        """Return the result of one image, or a list of results for a list of images.

        An image is a path or a uint8 array H x W x 3 in BGR order (grey, alpha and 16-bit arrays
        are converted).

        Raises:
            ImageError: an image cannot be read or prepared, or is of another type.
        """
        several = images.ndim == 4 if isinstance(images, np.ndarray) else isinstance(images, Iterable)
        if isinstance(images, str | Path) or not several:
            return self.predict([cast(Image, images)])[0]
        return self.predict(list(images))

    def predict(self, images: Iterable[Image]) -> list[Result]:
        """Return one result an image, in order."""
        return list(self.stream(images))

    def stream(self, images: Iterable[Image], *, batch: int = 1) -> Iterator[Result]:
        """Yield one result an image, holding no more than ``batch`` images at a time."""
        size = min(max(batch, self.batch_min), self.batch_max)
        pending: list[Prepared] = []
        for image in images:
            pending.append(self.prepare(image))
            if len(pending) == size:
                yield from self.run(pending)
                pending = []
        if pending:
            yield from self.run(pending)

    def prepare(self, image: Image) -> Prepared:
        """Return one image as an input tensor (float32, C x H x W)."""
        prepared = self._preprocess(_pixels(image))
        self._check_size(prepared.tensor.shape, image)
        return prepared

    def run(self, prepared: Sequence[Prepared]) -> list[Result]:
        """Return the results of prepared images; equal sizes share a batch."""
        results: list[Result] = []
        for _, group in groupby(prepared, key=lambda item: item.tensor.shape):
            items = list(group)
            for start in range(0, len(items), self.batch_max):
                results.extend(self._batch(items[start : start + self.batch_max]))
        return results

    def _batch(self, items: list[Prepared]) -> list[Result]:
        count = len(items)
        padded = items + [items[-1]] * (self.batch_min - count)
        outputs = self.session.run({self.spec.inputs[0].name: np.stack([item.tensor for item in padded])})
        rows = {name: value[:count] for name, value in outputs.items()}
        return list(self._decode(rows, [item.meta for item in items]))

    def _check_size(self, shape: Sequence[int], image: Image) -> None:
        dims = {dim.name: dim for dim in self.spec.dims}
        for size, extent in zip(shape, self.spec.inputs[0].shape[1:], strict=True):
            dim = dims.get(extent) if isinstance(extent, str) else None
            if dim and not dim.min <= size <= dim.max:
                raise ImageError(
                    f"{'The image' if isinstance(image, np.ndarray) else image} needs an input {dim.name} of {size};"
                    f" the artifact was proved for {dim.min} to {dim.max}.",
                    hint=f"Convert with --shape {dim.name}={min(dim.min, size)}:{dim.opt}:{max(dim.max, size)}.",
                )

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


class GpuPredictor(Predictor):
    """A predictor whose images go the whole road on the GPU.

    The pixels of a batch are copied to the GPU in one piece, and only the results come back. Between
    them run the adapter's preprocess, the engine and the adapter's decode, on one stream, from the third
    batch of a size on in one CUDA graph where the engine can be captured. An end that has no device side
    runs on the host, which works and is slower; an engine without one makes this a plain predictor.
    """

    def __init__(self, artifact: Artifact, session: Session) -> None:
        super().__init__(artifact, session)
        self.road = self._open_road(session)

    def _open_road(self, session: Session) -> Road | None:
        ends = [getattr(end, "on_device", None) for end in (self._preprocess, self._decode)]
        if not any(ends):
            return None
        device = Cuda(session.device)
        with device.active():
            engine = session.on_device(device.stream)
            if engine is None:
                return None
            preprocess, decode = (_device_side(end) for end in ends)
        return Road(
            device, engine, self.spec.inputs[0].name, prepare=self._preprocess, decode_on_host=self._decode,
            preprocess=preprocess, decode=decode, least=self.batch_min,
        )  # fmt: skip

    def predict(self, images: Iterable[Image]) -> list[Result]:
        """Return one result an image, in order; as many go together as the artifact allows."""
        return list(self.stream(images, batch=self.batch_max))

    def stream(self, images: Iterable[Image], *, batch: int = 1) -> Iterator[Result]:
        """Yield one result an image; while a batch is on the GPU the next one is packed."""
        if self.road is None:
            return super().stream(images, batch=batch)
        return self.road.flow(self._batches(images, min(max(batch, self.batch_min), self.batch_max)))

    def _batches(self, images: Iterable[Image], size: int) -> Iterator[list[Any]]:
        """Yield up to ``size`` images of one input shape at a time."""
        assert self.road is not None
        pending: list[Any] = []
        for image in images:
            item = self.road.item(_pixels(image))
            self._check_size(item.shape, image)
            if pending and (len(pending) == size or item.shape != pending[0].shape):
                yield pending
                pending = []
            pending.append(item)
            if len(pending) == size:
                yield pending
                pending = []
        if pending:
            yield pending

    def close(self) -> None:
        """Free the GPU's buffers and the engine."""
        if self.road is not None:
            self.road.close()
        super().close()


def _device_side(end: Callable[[], Any] | None) -> Any:
    """Return what ``on_device`` of an end returns; None where it has none, or none for these settings."""
    try:
        return end() if end else None
    except KernelArgumentError:
        return None


def _pixels(image: Image) -> np.ndarray:
    """Return an image as uint8, H x W x 3, BGR."""
    if isinstance(image, np.ndarray):
        return as_bgr(image)
    if not isinstance(image, str | Path):
        raise ImageError(
            f"{type(image).__name__} is no type of an image.",
            hint="Give a path or a NumPy array; cv2.imread returns None for a file that it cannot read.",
        )
    return read_image(image)
