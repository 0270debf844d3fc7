"""A predictor whose inputs go through the device pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

from convkit.artifact import Artifact
from convkit.backends import Session
from convkit.errors import InputError
from convkit.processing import Decode, Prepared, Preprocess
from convkit.results import Result
from convkit.runtime._buffers import Item
from convkit.runtime._cuda import Cuda, on_gpu
from convkit.runtime._device_pipeline import DevicePipeline
from convkit.runtime._finite import Origins
from convkit.runtime._predictor import Predictor, batches, refuse

__all__ = ["DevicePredictor"]


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
            refuse(error, raw)
        return item

    def close(self) -> None:
        """Free the GPU's buffers and the engine."""
        if self.pipeline is not None:
            self.pipeline.close()
        super().close()
