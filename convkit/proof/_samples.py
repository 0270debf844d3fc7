"""The inputs of a proof: real or synthetic images, made into tensors at every size that is proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from convkit.errors import ConversionError
from convkit.model import ModelSpec, TensorSpec, resolve
from convkit.processing import Prepared, find_preprocess
from convkit.proof._cases import Case

__all__ = ["Samples", "fit"]

Picture = tuple[tuple[str, int], ...]


class Samples:
    """Prepared images by picture size; a batch larger than their number repeats them in turn."""

    def __init__(self, tensor: TensorSpec, prepared: Mapping[Picture, Sequence[Prepared]]) -> None:
        self.tensor = tensor
        self.prepared = {picture: list(items) for picture, items in prepared.items()}

    @classmethod
    def prepare(
        cls, adapter: str, spec: ModelSpec, images: Sequence[np.ndarray], pictures: Sequence[Picture]
    ) -> Samples:
        """Preprocess every image for every size, by the adapter's own preprocess."""
        if len(spec.inputs) != 1:
            raise ConversionError(
                f"Adapter {adapter!r} declares {len(spec.inputs)} inputs.",
                hint="Models with one image input are supported; concatenate the others into it or patch them away.",
            )
        tensor = spec.inputs[0]
        prepared = {}
        for picture in dict.fromkeys(pictures):
            sizes = dict(picture)
            preprocess = find_preprocess(adapter, spec.preprocess, sizes)
            shape = resolve(tensor.shape[1:], sizes)
            prepared[picture] = [fit(preprocess(image), shape) for image in images]
        return cls(tensor, prepared)

    def feed(self, case: Case) -> dict[str, np.ndarray]:
        """Return the input tensors of a case, batch on axis 0."""
        items = self.items(case)
        return {self.tensor.name: np.stack([item.tensor for item in items])}

    def items(self, case: Case) -> list[Prepared]:
        """Return the prepared images of a case, one a row of its batch."""
        items = self.prepared[case.picture]
        return [items[index % len(items)] for index in range(case.batch)]

    def first(self, count: int) -> Samples:
        """Return the samples with only ``count`` images."""
        return Samples(self.tensor, {picture: items[:count] for picture, items in self.prepared.items()})


def fit(prepared: Prepared, shape: tuple[int, ...]) -> Prepared:
    """Crop or pad (with edge values) a tensor whose preprocess chose another size by itself."""
    tensor = prepared.tensor
    if tensor.shape == shape:
        return prepared
    if tensor.ndim != len(shape) or tensor.shape[0] != shape[0]:
        raise ConversionError(
            f"The preprocess returned a tensor of shape {tensor.shape}; the model takes {shape}.",
            hint="The adapter's preprocess and its ModelSpec disagree.",
        )
    tensor = tensor[tuple(slice(size) for size in shape)]
    tensor = np.pad(tensor, [(0, size - have) for size, have in zip(shape, tensor.shape, strict=True)], mode="edge")
    return Prepared(np.ascontiguousarray(tensor), prepared.meta)
