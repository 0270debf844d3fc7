"""What polygraphy runs: PyTorch modules in any precision, and sessions of any backend."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, compare
from polygraphy.logger import G_LOGGER

from convkit.errors import ValidationError
from convkit.proof._errors import measure
from convkit.proof._matching import match_detections, rows_to_detections

if TYPE_CHECKING:
    import torch

    from convkit.model import TensorSpec

__all__ = ["Compute", "TorchCompute", "compare_runs", "output_errors"]

ERRORS = "errors of all outputs"

Compute = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Anything that turns a feed (batch on axis 0) into outputs by name."""


class TorchCompute:
    """Run a PyTorch model one sample at a time, in ``dtype``, and remember what each sample gave.

    Running single samples makes every batch that a backend runs a comparison of batch against
    single as well, and a sample that several shapes share is computed once.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        reference: Callable[[torch.nn.Module, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]],
        dtype: str,
    ) -> None:
        import torch

        self.module, self.reference, self.dtype = module, reference, getattr(torch, dtype)
        self._known: dict[bytes, dict[str, np.ndarray]] = {}

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs of the batch, put together from its samples."""
        count = len(next(iter(feed.values())))
        rows = [
            self._sample({name: tensor[index : index + 1] for name, tensor in feed.items()}) for index in range(count)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _sample(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in feed.items():
            digest.update(f"{name}{tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).data)
        key = digest.digest()
        if key not in self._known:
            with torch.no_grad():
                tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feed.items()}
                cast = {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in tensors.items()}
                outputs = self.reference(self.module, cast)
            self._known[key] = {name: value.numpy() for name, value in outputs.items()}
        return self._known[key]


class _Runner(BaseRunner):  # type: ignore[misc]
    """A polygraphy runner around a `Compute`."""

    def __init__(self, name: str, compute: Compute, inputs: Sequence[TensorSpec]) -> None:
        super().__init__(name=name)
        self.compute = compute
        self.metadata = TensorMetadata()
        for tensor in inputs:
            shape = [extent if isinstance(extent, int) else -1 for extent in tensor.shape]
            self.metadata.add(tensor.name, np.dtype(tensor.dtype), shape)

    def get_input_metadata_impl(self) -> Any:
        return self.metadata

    def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        start = time.perf_counter()
        outputs = OrderedDict(self.compute(feed_dict))
        self.inference_time = time.perf_counter() - start
        return outputs


class _Measure(compare.BaseCompareFunc):  # type: ignore[misc]
    """A polygraphy comparison that measures and leaves the judgement to the rule.

    All errors stand under one key that names no output: polygraphy sorts the values of every
    output that a comparison names, for statistics in its log, and that takes longer than the rest.
    """

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self.outputs = outputs

    def __call__(self, iter_result0: Any, iter_result1: Any) -> OrderedDict[str, Any]:
        found: OrderedDict[str, Any] = OrderedDict()
        for tensor in self.outputs:
            if tensor.name not in iter_result1:
                raise ValidationError(
                    f"The engine has no output {tensor.name!r}; it returns {', '.join(iter_result1)}.",
                    hint="The graph is not the one that the specification describes; convert again.",
                )
            reference, value = np.asarray(iter_result0[tensor.name]), np.asarray(iter_result1[tensor.name])
            found[tensor.name] = output_errors(tensor, reference, value)
        return OrderedDict({ERRORS: found})


def output_errors(tensor: TensorSpec, reference: np.ndarray, value: np.ndarray) -> list[Any]:
    """Return the errors of one output: one `TensorError`, or a `MatchError` a sample for detections.

    Detections of another shape, or with a value that is no number, cannot be matched.
    """
    if tensor.compare != "detections" or reference.shape != value.shape or not np.isfinite(value).all():
        return [measure(reference, value)]
    return [
        match_detections(rows_to_detections(a), rows_to_detections(b)) for a, b in zip(reference, value, strict=True)
    ]


def compare_runs(
    computes: Mapping[str, Compute],
    feeds: Iterable[Mapping[str, np.ndarray]],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> dict[str, list[dict[str, list[Any]]]]:
    """Run every compute on every feed through polygraphy's Comparator.

    Returns, for each compute but the first, one mapping a feed: output name to its errors against
    the first compute, a `TensorError`, or a `MatchError` a sample for outputs of detections.
    """
    runners = [_Runner(name, compute, inputs) for name, compute in computes.items()]
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        stream = Comparator.run(runners, data_loader=feeds, streaming=True)
        accuracy = Comparator.compare_accuracy(
            stream, comparisons=[(0, index) for index in range(1, len(runners))], compare_func=[_Measure(outputs)]
        )
    return {pair[1]: [dict(iteration[ERRORS]) for iteration in iterations] for pair, iterations in accuracy[0].items()}
