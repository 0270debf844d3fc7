"""What a precision costs PyTorch itself on a float32 graph: the yardstick of every typed graph of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from convkit.backends.torch import session_in
from convkit.model import PRECISIONS, ModelSpec, Precision
from convkit.processing import Decode
from convkit.progress import Progress
from convkit.proof import Case, Compute, Samples, by_items, feed_key, measure_baselines

__all__ = ["measure_yardstick"]

Baselines = dict[str, dict[str, float]]


def measure_yardstick(
    spec: ModelSpec,
    graph: Path,
    reference: Compute,
    samples: Samples,
    cases: Sequence[Case],
    decode: Decode | None,
    precision: Precision,
    progress: Progress,
    *,
    bounded: bool = False,
) -> Baselines:
    """Return the errors against the reference of a float32 graph that PyTorch runs with every tensor in 16 bits.

    It runs on the CPU, where operators compute in float32 and round their results once. A network that leaves the range
    of float16 has infinite errors there. With ``bounded`` it gets those of bfloat16, which has the range of float32,
    reduced by the ratio of their units: what float16 costs where the range does not matter. For int8 the graph is one
    whose tensors are rounded to int8 steps, and with ``bounded`` float32 around them takes the place of float16.

    Raises:
        EnvironmentProblem: PyTorch lacks an operator of the graph.
    """

    def measured(kind: Precision, dtype: str | None) -> Baselines:
        session = session_in(graph, dtype)
        try:
            alone = _each_once(spec, session.run) if spec.batch.min == 1 else session.run
            return measure_baselines(spec, reference, alone, samples, cases, decode, progress, precision=kind)
        finally:
            session.close()

    wide = PRECISIONS["bf16"]
    found = measured(precision, PRECISIONS[precision.rest or precision.name].dtype)
    if not bounded or precision == wide or _finite(found):
        return found
    if precision.rest:
        return measured(precision, None)
    ratio = precision.ulp / wide.ulp
    return {
        name: {
            key: precision.ulp if key == "ulp" else value if key == "scale" else value * ratio
            for key, value in table.items()
        }
        for name, table in measured(wide, wide.dtype).items()
    }


def _finite(baselines: Mapping[str, Mapping[str, float]]) -> bool:
    return all(math.isfinite(value) for table in baselines.values() for value in table.values())


def _each_once(spec: ModelSpec, run: Compute) -> Compute:
    """Return what runs every item by itself, and one that it has seen before not again."""
    known: dict[bytes, Mapping[str, np.ndarray]] = {}

    def item(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        key = feed_key(feed)
        if key not in known:
            known[key] = run(feed)
        return known[key]

    return lambda feed: by_items(spec, item, feed)
