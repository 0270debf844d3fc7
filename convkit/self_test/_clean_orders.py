"""Clean variants of what is run when: orders and sizes of batches, memory layouts, threads, order of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import cv2
import numpy as np

from convkit.processing import Prepared, Preprocess, take_items
from convkit.proof import GoldenSamples, Samples
from convkit.self_test._clean import NotApplicableError, Variant
from convkit.self_test._subject import Subject

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["ORDER_VARIANTS"]

Arrays = Mapping[str, np.ndarray]
Found = dict[str, np.ndarray]
Run = Callable[["Judge", Arrays], Found]


def _engine(name: str, run: Run) -> Variant:
    return Variant(name, "batches", lambda judge: Subject(run=lambda feed: run(judge, feed)))


def _batched(name: str, run: Run) -> Variant:
    """Return a variant for models whose inputs all have a batch axis of more than one size."""

    def make(judge: Judge) -> Subject:
        batch = judge.spec.batch
        if not all(tensor.batched for tensor in (*judge.spec.inputs, *judge.spec.outputs)):
            raise NotApplicableError("an input or output has no batch axis")
        if not batch.dynamic:
            raise NotApplicableError(f"the batch is always {batch.opt}")
        return Subject(run=lambda feed: run(judge, feed))

    return Variant(name, "batches", make)


def _size(judge: Judge, feed: Arrays) -> int:
    return len(feed[judge.spec.inputs[0].name])


def _in_order(order: Callable[[int], np.ndarray]) -> Run:
    """Return a run of a batch in another order, whose outputs are put back."""

    def run(judge: Judge, feed: Arrays) -> Found:
        rows = order(_size(judge, feed))
        found = judge.session.run(take_items(judge.spec.inputs, feed, rows))
        return take_items(judge.spec.outputs, found, np.argsort(rows))

    return run


def _in_pieces(pieces: Callable[[Judge, int], list[int]]) -> Run:
    """Return a run of a batch in pieces of these sizes."""

    def run(judge: Judge, feed: Arrays) -> Found:
        count = _size(judge, feed)
        ends = np.cumsum(pieces(judge, count))
        parts = [
            judge.session.run(take_items(judge.spec.inputs, feed, slice(start, end)))
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run


def _alone(judge: Judge, count: int) -> list[int]:
    smallest = judge.spec.batch.min
    pieces = [smallest] * (count // smallest)
    pieces[-1] += count % smallest
    return pieces


def _halves(judge: Judge, count: int) -> list[int]:
    half = count // 2
    return [half, count - half] if half >= judge.spec.batch.min else [count]


def _filled(judge: Judge, feed: Arrays) -> Found:
    """Run with the batch filled up to the largest by copies of its last item."""
    count = _size(judge, feed)
    rows = np.minimum(np.arange(judge.spec.batch.max), count - 1)
    found = judge.session.run(take_items(judge.spec.inputs, feed, rows))
    return take_items(judge.spec.outputs, found, slice(0, count))


def _twice(judge: Judge, feed: Arrays) -> Found:
    judge.session.run(feed)
    return judge.session.run(feed)


def _mixed(judge: Judge, feed: Arrays) -> Found:
    """Run with another shape before it, the smallest or an odd one in turn."""
    cases = sorted(judge.cases, key=lambda case: case.batch)
    judge.session.run(judge.golden.samples.feed(cases[_size(judge, feed) % 2 if len(cases) > 1 else 0]))
    return judge.session.run(feed)


def _threads(judge: Judge, feed: Arrays) -> Found:
    """Run in one of three threads that use the session at the same time."""
    other = judge.golden.samples.feed(judge.cases[0])
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(judge.session.run, each) for each in (other, feed, other)]
        return runs[1].result()


def _strided(judge: Judge, feed: Arrays) -> Found:
    """Run with inputs that are every other element of a larger array."""
    spread = {name: np.repeat(value, 2, -1)[..., ::2] if value.ndim else value for name, value in feed.items()}
    return judge.session.run(spread)


def _columns(judge: Judge, feed: Arrays) -> Found:
    return judge.session.run({name: np.asfortranarray(value) for name, value in feed.items()})


def _read_only(judge: Judge, feed: Arrays) -> Found:
    locked = {name: value.copy() for name, value in feed.items()}
    for value in locked.values():
        value.setflags(write=False)
    return judge.session.run(locked)


def _samples(name: str, order: Callable[[int], list[int]]) -> Variant:
    """Return the variant of stored samples in another order."""

    def make(judge: Judge) -> Subject:
        golden = judge.golden
        if len(golden.raws) < 2:
            raise NotApplicableError("there is one sample only")
        rows = order(len(golden.raws))
        prepared = {sizes: [items[row] for row in rows] for sizes, items in golden.samples.prepared.items()}
        return Subject(
            golden=GoldenSamples(
                Samples(golden.samples.spec, prepared),
                [golden.raws[row] for row in rows],
                [golden.sources[row] for row in rows],
                {sizes: [found[row] for row in rows] for sizes, found in golden.outputs.items()},
                {sizes: [found[row] for row in rows] if found else [] for sizes, found in golden.results.items()},
            )
        )

    return Variant(name, "samples", make)


class _From(Preprocess):
    """A preprocess that gets raw inputs in another form."""

    def __init__(self, inner: Preprocess, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.reader = inner.reader  # type: ignore[misc]
        self._inner, self._change = inner, change

    def __call__(self, raw: object) -> Prepared:
        """Return the tensors of the raw input in the other form."""
        return self._inner(self._change(raw) if isinstance(raw, np.ndarray) else raw)


def _raw(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Variant:
    def make(judge: Judge) -> Subject:
        if not judge.spec.preprocess or not all(isinstance(raw, np.ndarray) for raw in judge.golden.raws):
            raise NotApplicableError("raw inputs are no arrays")
        return Subject(preprocess=lambda inner: _From(inner, change))

    return Variant(name, "preprocess", make)


@contextmanager
def _opencv(threads: int | None = None, optimised: bool | None = None) -> Iterator[None]:
    before = cv2.getNumThreads(), cv2.useOptimized()
    if threads is not None:
        cv2.setNumThreads(threads)
    if optimised is not None:
        cv2.setUseOptimized(optimised)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        cv2.setUseOptimized(before[1])


def _with_opencv(name: str, threads: int | None = None, optimised: bool | None = None) -> Variant:
    def make(judge: Judge) -> Subject:
        if not judge.spec.preprocess:
            raise NotApplicableError("the model has no preprocess")
        return Subject(settings=lambda: _opencv(threads, optimised))

    return Variant(name, "preprocess", make)


ORDER_VARIANTS: tuple[Variant, ...] = (
    _engine("as it is", lambda judge, feed: judge.session.run(feed)),
    _batched("batches backwards", _in_order(lambda count: np.arange(count)[::-1])),
    _batched("batches rotated", _in_order(lambda count: np.roll(np.arange(count), 1))),
    _batched("items in batches of the smallest size", _in_pieces(_alone)),
    _batched("batches in halves", _in_pieces(_halves)),
    _batched("batches filled up to the largest", _filled),
    _engine("each run twice", _twice),
    _engine("a mixed stream of shapes", _mixed),
    _engine("three threads at one session", _threads),
    _engine("inputs with strides", _strided),
    _engine("inputs in column order", _columns),
    _engine("inputs that are read only", _read_only),
    _samples("samples backwards", lambda count: list(range(count))[::-1]),
    _samples("samples rotated", lambda count: [*range(1, count), 0]),
    _raw("raw inputs in column order", np.asfortranarray),
    _raw("raw inputs with strides", lambda raw: np.repeat(raw, 2, 0)[::2]),
    _with_opencv("OpenCV with 1 thread", threads=1),
    _with_opencv("OpenCV with 2 threads", threads=2),
    _with_opencv("OpenCV without vector instructions", optimised=False),
)
"""Other orders, layouts and sizes in which the same is run."""
