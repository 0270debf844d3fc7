"""Faults behind the engine: results that do not say what the outputs say, or that belong to another input."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.processing import Decode
from convkit.results import Classification, Detections, Result
from convkit.self_test._fault import Fault, Site
from convkit.self_test._subject import Delivery, Subject

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["RESULT_FAULTS"]

Outputs = Mapping[str, np.ndarray]
Metas = Sequence[Mapping[str, Any]]
Sites = Callable[["Judge", np.random.Generator], Iterator[Site]]
DROPPED_BELOW = (0.3, 0.01, 0.6)
"""Thresholds that a decode of another project may apply."""


class _Spoilt(Decode):
    """A decode with a fault before it or behind it."""

    def __init__(
        self,
        inner: Decode,
        result: Callable[[Any], Any] = lambda result: result,
        before: Callable[[Outputs, Metas], tuple[Outputs, Metas]] = lambda outputs, metas: (outputs, metas),
    ) -> None:
        self._inner, self._result, self._before = inner, result, before

    def __call__(self, outputs: Outputs, metas: Metas) -> list[Result]:
        """Return what a decode with the fault makes of the outputs of a batch."""
        return [self._result(result) for result in self._inner(*self._before(outputs, metas))]


class _OffByOnePercent(Result):
    """A result whose first number that is not whole is 1 % too large."""

    def __init__(self, inner: Result) -> None:
        self._inner = inner

    def to_json(self) -> dict[str, Any]:
        """Return the document with the number changed."""
        changed, _ = _scaled(self._inner.to_json())
        return dict(changed)

    def summary(self) -> str:
        """Return what the sound result says."""
        return self._inner.summary()


def _scaled(value: Any) -> tuple[Any, bool]:
    """Return a JSON value with its first number that is not whole changed, and whether there was one."""
    if isinstance(value, float) and value:
        return value * 1.01, True
    if isinstance(value, dict):
        items: dict[str, Any] = dict(value)
        for key, item in items.items():
            items[key], found = _scaled(item)
            if found:
                return items, True
    if isinstance(value, list | tuple):
        entries = list(value)
        for index, item in enumerate(entries):
            entries[index], found = _scaled(item)
            if found:
                return entries, True
    return value, False


def _decode_site(where: str, **spoilt: Any) -> Site:
    return Site(where, lambda: Subject(decode=lambda inner: _Spoilt(inner, **spoilt)))


def _of_results(kinds: type | tuple[type, ...], **changes: Callable[[Any], Any]) -> Sites:
    """Return a site for each change of results, where the decode returns results of these kinds."""

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del rng
        if judge.result_kind and issubclass(judge.result_kind, kinds):
            for where, change in changes.items():
                yield _decode_site(where.replace("_", " "), result=change)

    return sites


def _of_outputs(change: Callable[[np.ndarray], np.ndarray]) -> Sites:
    """Return the site of a change of the floating outputs that a decode reads."""

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del rng
        if judge.decode:
            yield _decode_site(
                "outputs that are decoded",
                before=lambda outputs, metas: (
                    {
                        name: change(value) if np.issubdtype(value.dtype, np.floating) else value
                        for name, value in outputs.items()
                    },
                    metas,
                ),
            )

    return sites


def _without_last(result: Detections) -> Detections:
    return Detections(result.boxes[:-1], result.scores[:-1], result.class_ids[:-1], result.classes)


def _next_class(result: Any) -> Any:
    if isinstance(result, Detections):
        return replace(result, class_ids=result.class_ids + 1)
    return replace(result, probabilities=np.roll(result.probabilities, 1))


def _logits(result: Any) -> Any:
    name = "scores" if isinstance(result, Detections) else "probabilities"
    values = np.clip(getattr(result, name).astype(np.float64), 1e-7, 1 - 1e-7)
    return replace(result, **{name: np.log(values / (1 - values)).astype(np.float32)})


def _squashed(result: Any) -> Any:
    name = "scores" if isinstance(result, Detections) else "probabilities"
    return replace(result, **{name: (1 / (1 + np.exp(-getattr(result, name)))).astype(np.float32)})


def _boxes(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Detections], Detections]:
    return lambda result: replace(result, boxes=change(result.boxes).astype(np.float32))


def _centre_form(boxes: np.ndarray) -> np.ndarray:
    size = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, size], 1)


def _random(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    if judge.decode:

        def before(outputs: Outputs, metas: Metas) -> tuple[Outputs, Metas]:
            noisy = {
                name: (value * (1 + 0.01 * rng.standard_normal(value.shape))).astype(value.dtype)
                if np.issubdtype(value.dtype, np.floating)
                else value
                for name, value in outputs.items()
            }
            return noisy, metas

        yield _decode_site("outputs that are decoded", before=before)


def _meta_of_the_first(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    del rng
    if judge.decode:
        yield _decode_site("meta of a batch", before=lambda outputs, metas: (outputs, [metas[0]] * len(metas)))


def _results_of_the_first(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    """Only visible in batches: every item gets the outputs of the first one."""
    del rng
    if judge.decode:
        batched = [output.name for output in judge.spec.outputs if output.batched]
        yield _decode_site(
            "outputs of a batch",
            before=lambda outputs, metas: (
                {
                    name: np.repeat(value[:1], len(value), 0) if name in batched else value
                    for name, value in outputs.items()
                },
                metas,
            ),
        )


def _delivered(change: Delivery) -> Sites:
    """Return the site of a change of the stream of results."""

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del judge, rng
        yield Site("stream of results", lambda: Subject(deliver=change))

    return sites


def _last_lost(results: Iterator[Any]) -> Iterator[Any]:
    previous = next(results, None)
    for result in results:
        yield previous
        previous = result


def _one_lost(results: Iterator[Any]) -> Iterator[Any]:
    return (result for index, result in enumerate(results) if index != 1)


def _first_two_exchanged(results: Iterator[Any]) -> Iterator[Any]:
    first = list(itertools.islice(results, 2))
    yield from reversed(first)
    yield from results


def _one_twice(results: Iterator[Any]) -> Iterator[Any]:
    for index, result in enumerate(results):
        yield result
        if index == 0:
            yield result


def _late(results: Iterator[Any]) -> Iterator[Any]:
    previous = None
    for result in results:
        yield result if previous is None else previous
        previous = result


def _decode(kind: str, cause: str, sites: Sites) -> Fault:
    return Fault(kind, "decode", cause, sites)


def _pipeline(kind: str, cause: str, change: Delivery) -> Fault:
    return Fault(kind, "pipeline", cause, _delivered(change))


SCORED = (Detections, Classification)

RESULT_FAULTS: tuple[Fault, ...] = (
    _decode(
        "class shift", "classes counted from 1, or a background class", _of_results(SCORED, all_results=_next_class)
    ),
    _decode("top-K off by one", "the last of K results is lost", _of_results(Detections, all_results=_without_last)),
    _decode(
        "score threshold",
        "results below another project's threshold are dropped",
        _of_results(
            Result,
            **{f"below_{score}": lambda result, score=score: result.above(score) for score in DROPPED_BELOW},
        ),
    ),
    _decode("scores left as logits", "the sigmoid of the decode dropped", _of_results(SCORED, all_scores=_logits)),
    _decode("scores squashed twice", "the sigmoid of the decode doubled", _of_results(SCORED, all_scores=_squashed)),
    _decode(
        "boxes in the wrong frame",
        "the inverse of the letterbox is wrong, or missing",
        _of_results(
            Detections,
            in_cells_of_the_map=_boxes(lambda boxes: boxes / 4),
            off_by_half_a_cell=_boxes(lambda boxes: boxes + 2),
        ),
    ),
    _decode(
        "x and y of boxes exchanged",
        "rows for columns",
        _of_results(Detections, all_boxes=_boxes(lambda boxes: boxes[:, [1, 0, 3, 2]])),
    ),
    _decode(
        "corners taken as centre and size",
        "another format of boxes",
        _of_results(Detections, all_boxes=_boxes(_centre_form)),
    ),
    _decode(
        "a number of the result off by 1 %",
        "a constant of another version",
        _of_results(Result, first_number=_OffByOnePercent),
    ),
    _decode(
        "outputs decoded in half precision",
        "copied to the host as float16",
        _of_outputs(lambda value: value.astype(np.float16).astype(value.dtype)),
    ),
    _decode("random decode", "another result each time", _random),
    _decode("meta of the first image for all", "results of a batch are mapped back alike", _meta_of_the_first),
    _decode("outputs of the first image for all", "an index was forgotten", _results_of_the_first),
    _pipeline("the last result lost", "a batch that is not full", _last_lost),
    _pipeline("a result lost", "an image that was skipped", _one_lost),
    _pipeline("two images exchanged", "threads that finish in another order", _first_two_exchanged),
    _pipeline("a result given twice", "a retry after a timeout", _one_twice),
    _pipeline("results one image late", "two buffers that take turns", _late),
)
"""Kinds of fault between the outputs and what the user gets."""
