"""The rung *pipeline*: stored raw inputs through a predictor, as ``run`` sends them, against the stored results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.errors import IntegrityError
from convkit.processing import Prepared, decode_batch, find_decode
from convkit.progress import Progress, silent
from convkit.proof import DECODED, Check, GoldenSamples, ItemSizes, TensorError, judge, measure, own_sizes, score_slack
from convkit.results import Result
from convkit.runtime import DevicePredictor, Predictor

__all__ = ["check_pipeline"]

PIPELINE = "pipeline"
ROUNDS = 4
"""Runs of each stream on a device: the third of a slot is captured in a CUDA graph, and later ones replay it."""
SINGLE = 2
"""Inputs of the stream of batch 1."""

Baselines = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class _Known:
    """A stored raw input, what is stored for it in the sizes that ``run`` gives it, and these sizes."""

    raw: Any
    sizes: ItemSizes
    prepared: Prepared
    outputs: Mapping[str, np.ndarray]


def check_pipeline(
    predictor: Predictor, golden: GoldenSamples, baselines: Baselines, progress: Progress = silent
) -> list[Check]:
    """Return a check for each stream of stored raw inputs: the predictor's results against the stored ones, in order.

    The streams are of batch 1 and mixed: the largest batch with a smaller one behind it, raw inputs of all sizes in
    turn. On a device each stream is run often enough that its CUDA graph is replayed, on other inputs each time. A
    host's predictor also gets the prepared inputs of all item sizes in one stream. For a model without decode the
    outputs are compared. A result too many or too few, results in another order, and the result of another input fail.

    Nothing is returned where ``run`` refuses all stored inputs, because their own size is none of the model's.
    """
    known = _known(predictor, golden)
    if not known:
        return []
    largest = predictor.batch_max
    streams = {
        f"batch {predictor.batch_min}": (known[:SINGLE], predictor.batch_min),
        "mixed stream": (_turns(known, max(largest + 1, len(known))), largest),
    }
    rounds = ROUNDS if isinstance(predictor, DevicePredictor) and predictor.pipeline else 1
    checks: list[Check] = []
    for number, (name, (items, batch)) in enumerate(streams.items()):
        for count in range(1, rounds + 1):
            progress("running the pipeline", number * rounds + count - 1, len(streams) * rounds)
            case = f"{name}, round {count}" if rounds > 1 else name
            first = (count - 1) % len(items)
            checks += _stream_checks(predictor, [*items[first:], *items[:first]], baselines, batch, case)
    if predictor.decodes and len(golden.samples.prepared) > 1 and not isinstance(predictor, DevicePredictor):
        checks += _sizes_checks(predictor, golden, baselines)
    return checks


def _known(predictor: Predictor, golden: GoldenSamples) -> list[_Known]:
    found = []
    for row, (raw, sizes) in enumerate(zip(golden.raws, own_sizes(predictor.spec, golden.raws), strict=True)):
        if sizes is None:
            continue
        if sizes not in golden.outputs:
            raise IntegrityError(
                "The proof contains no results for the sizes in which `run` takes its inputs.", hint="Convert again."
            )
        found.append(_Known(raw, sizes, golden.samples.prepared[sizes][row], golden.outputs[sizes][row]))
    return found


def _turns(items: Sequence[_Known], count: int) -> list[_Known]:
    """Return ``count`` items, which take turns."""
    return list(itertools.islice(itertools.cycle(items), count))


def _stream_checks(
    predictor: Predictor, items: Sequence[_Known], baselines: Baselines, batch: int, case: str
) -> Iterator[Check]:
    raws = [item.raw for item in items]
    if predictor.decodes:
        expected = _expected(predictor, [(item.outputs, item.prepared) for item in items])
        yield _decoded(expected, list(predictor.stream(raws, batch=batch)), baselines, case)
        return
    found = list(predictor.stream_outputs(raws, batch=batch))
    if len(found) != len(items):
        yield _miscounted("outputs", len(found), len(items), case)
        return
    for output in predictor.spec.outputs:
        if output.compare == "values":
            name = output.name
            pairs = [(item.outputs[name], one[name]) for item, one in zip(items, found, strict=True)]
            errors = _together([(a[0] if output.batched else a, b) for a, b in pairs])
            yield judge(errors, output, case, baselines[name], kind=PIPELINE)


def _together(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[TensorError]:
    """Return the errors of a stream's outputs, of those of one shape as of one batch.

    The baselines are those of batches. An output of few small numbers has a larger relative error than its batch.
    """
    groups: dict[Any, list[tuple[np.ndarray, np.ndarray]]] = {}
    for expected, found in pairs:
        groups.setdefault((expected.shape, found.shape), []).append((expected, found))
    return [measure(*(np.stack(side) for side in zip(*group, strict=True))) for group in groups.values()]


def _sizes_checks(predictor: Predictor, golden: GoldenSamples, baselines: Baselines) -> Iterator[Check]:
    """Yield the check of prepared inputs of all item sizes in one stream, each size in turn."""
    rows = [
        [(outputs, item) for outputs, item in zip(golden.outputs[sizes], items, strict=True)]
        for sizes, items in golden.samples.prepared.items()
    ]
    mixed = [pair for pairs in itertools.zip_longest(*rows) for pair in pairs if pair is not None]
    expected = _expected(predictor, mixed)
    yield _decoded(expected, list(predictor.run([item for _, item in mixed])), baselines, "mixed item sizes")


def _expected(predictor: Predictor, pairs: Sequence[tuple[Mapping[str, np.ndarray], Prepared]]) -> list[Result]:
    """Return the results of stored outputs by the decode that the artifact names."""
    decode = find_decode(predictor.spec.decode)
    assert decode is not None
    return [decode_batch(decode, outputs, [item.meta])[0] for outputs, item in pairs]


def _decoded(expected: Sequence[Result], found: Sequence[Result], baselines: Baselines, case: str) -> Check:
    if len(found) != len(expected):
        return _miscounted("results", len(found), len(expected), case)
    slack = score_slack(baselines)
    differences = [one.compare(other, slack=slack) for one, other in zip(expected, found, strict=True)]
    return judge(differences, None, case, baselines.get(DECODED, {}), kind=PIPELINE)


def _miscounted(what: str, found: int, wanted: int, case: str) -> Check:
    return Check(PIPELINE, case, DECODED, False, {}, {}, f"{found} {what} for {wanted} inputs")
