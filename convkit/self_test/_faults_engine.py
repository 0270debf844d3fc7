"""Faults of engines: what comes out is not what the graph computes, or belongs to something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from convkit.model import BATCH, TensorSpec, resolve
from convkit.self_test._fault import Fault, Site, engine_site
from convkit.self_test._outputs import OUTPUT_FAULTS, OutputFault, changes_nothing, plant_output

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["ENGINE_FAULTS"]

Arrays = Mapping[str, np.ndarray]
Found = dict[str, np.ndarray]
Sites = Callable[["Judge", np.random.Generator], Iterator[Site]]
NOISE = 1e-3
"""Relative to the largest magnitude: far more than another order of sums, far less than anybody would see."""


def _planted(fault: OutputFault) -> Sites:
    """Return the sites of a fault in one output."""

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del rng
        for output in judge.spec.outputs:
            shapes = [resolve(output.shape, {BATCH: 1, **case.table}) for case in judge.cases]
            if all(changes_nothing(fault, output, shape) for shape in shapes):
                continue

            def run(feed: Arrays, output: TensorSpec = output) -> Found:
                found = judge.run(feed)
                return {**found, output.name: plant_output(fault, found[output.name], output)}

            yield engine_site(f"output {output.name}", run)

    return sites


def _of_one(
    applies: Callable[[TensorSpec, tuple[int, ...]], bool], change: Callable[[np.ndarray], np.ndarray]
) -> Sites:
    """Return the sites of a change of one output, where the output and its shape admit it."""

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del rng
        for output in judge.spec.outputs:
            shapes = [resolve(output.shape, {BATCH: 1, **case.table}) for case in judge.cases]
            if not any(applies(output, shape) for shape in shapes):
                continue

            def run(feed: Arrays, output: TensorSpec = output) -> Found:
                found = judge.run(feed)
                value = found[output.name]
                changed = change(value) if applies(output, value.shape) else value
                return {**found, output.name: np.ascontiguousarray(changed)}

            yield engine_site(f"output {output.name}", run)

    return sites


def _of_all(change: Callable[[Judge, Found], Found], *, batch: int = 1) -> Sites:
    """Return the one site of a change of all outputs; it needs a batch of at least ``batch``."""

    def sites(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
        del rng
        if max(case.batch for case in judge.cases) >= batch and any(output.batched for output in judge.spec.outputs):
            yield engine_site("all outputs", lambda feed: change(judge, judge.run(feed)))

    return sites


def _rows(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Judge, Found], Found]:
    """Return a change of all outputs along the batch."""

    def changed(judge: Judge, found: Found) -> Found:
        batched = {output.name for output in judge.spec.outputs if output.batched}
        return {name: change(value) if name in batched else value for name, value in found.items()}

    return changed


def _is_map(output: TensorSpec, shape: tuple[int, ...]) -> bool:
    return output.compare == "values" and len(shape) >= 4 and min(shape[-2:]) > 1


def _is_square(output: TensorSpec, shape: tuple[int, ...]) -> bool:
    return output.compare == "values" and len(shape) >= 3 and shape[-1] == shape[-2] > 1


def _is_float(output: TensorSpec, shape: tuple[int, ...]) -> bool:
    return np.issubdtype(np.dtype(output.host_dtype), np.floating) and 0 not in shape


def _exchanged(value: np.ndarray) -> np.ndarray:
    order = np.arange(len(value))
    order[:2] = order[:2][::-1]
    return np.asarray(value[order])


def _leaking(value: np.ndarray) -> np.ndarray:
    leaked: np.ndarray = value.copy()
    if np.issubdtype(value.dtype, np.floating):
        leaked[1:] += (0.01 * value[:1]).astype(value.dtype)
    return leaked


def _edge(value: np.ndarray) -> np.ndarray:
    spoilt: np.ndarray = value.copy()
    spoilt[..., -1] = 0
    return spoilt


def _quantised(value: np.ndarray) -> np.ndarray:
    low, high = float(value.min()), float(value.max())
    step = (high - low) / 255 or 1.0
    return np.asarray((np.rint((value - low) / step) * step + low).astype(value.dtype))


def _infinite(value: np.ndarray) -> np.ndarray:
    spoilt: np.ndarray = value.copy()
    spoilt.flat[int(np.argmax(np.abs(value.astype(np.float64))))] = np.inf
    return spoilt


def _last_nan(value: np.ndarray) -> np.ndarray:
    spoilt: np.ndarray = value.copy()
    if len(value) > 1:
        spoilt[-1].flat[-1] = np.nan
    return spoilt


def _outputs_exchanged(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    del rng
    for one, other in combinations(judge.spec.outputs, 2):
        if one.shape == other.shape and one.dtype == other.dtype:

            def run(feed: Arrays, one: str = one.name, other: str = other.name) -> Found:
                found = judge.run(feed)
                return {**found, one: found[other], other: found[one]}

            yield engine_site(f"outputs {one.name} and {other.name}", run)


def _nondeterministic(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    for output in judge.spec.outputs:
        if np.issubdtype(np.dtype(output.host_dtype), np.floating):

            def run(feed: Arrays, name: str = output.name) -> Found:
                found = judge.run(feed)
                value = found[name]
                noise = rng.standard_normal(value.shape) * NOISE * float(np.abs(value).max(initial=0))
                return {**found, name: (value + noise).astype(value.dtype)}

            yield engine_site(f"output {output.name}", run)


def _of_the_run_before(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    del rng
    before: dict[tuple[object, ...], Found] = {}

    def run(feed: Arrays) -> Found:
        found = judge.run(feed)
        key = tuple((name, value.shape) for name, value in found.items())
        late, before[key] = before.get(key, found), found
        return late

    yield engine_site("all outputs", run)


def _one_buffer(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    del rng
    buffers: dict[tuple[object, ...], np.ndarray] = {}

    def run(feed: Arrays) -> Found:
        found = judge.run(feed)
        for name, value in found.items():
            buffer = buffers.setdefault((name, value.shape), np.empty_like(value))
            buffer[...] = value
            found[name] = buffer
        return found

    yield engine_site("all outputs", run)


def _fewer_bits(judge: Judge, rng: np.random.Generator) -> Iterator[Site]:
    """The inputs rounded to the 10 bits of TF32, as matrix units do it unless they are told not to."""
    del rng
    for tensor in judge.spec.inputs:
        if tensor.dtype == "float32":

            def run(feed: Arrays, name: str = tensor.name) -> Found:
                bits = np.ascontiguousarray(feed[name]).view(np.uint32)
                rounded = ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)
                return judge.session.run({**feed, name: rounded})

            yield engine_site(f"input {tensor.name}", run)


_OUTPUTS = {
    "channels moved": "class shift: the channels of an output moved by one",
    "samples mixed up": "results of a batch belong to other images",
}

ENGINE_FAULTS: tuple[Fault, ...] = (
    *(
        Fault(f"output {fault.name}", "engine", _OUTPUTS.get(fault.name, fault.cause), _planted(fault))
        for fault in OUTPUT_FAULTS
    ),
    Fault(
        "output transposed",
        "engine",
        "rows for columns",
        _of_one(_is_square, lambda value: value.swapaxes(-1, -2)),
    ),
    Fault(
        "output shifted by one cell",
        "engine",
        "an index that counts from 1",
        _of_one(_is_map, lambda value: np.roll(value, 1, -1)),
    ),
    Fault(
        "half-cell shift of an output",
        "engine",
        "another convention of where cells lie",
        _of_one(_is_map, lambda value: ((value + np.roll(value, 1, -1)) / 2).astype(value.dtype)),
    ),
    Fault("last column not written", "engine", "a kernel does not reach the edge", _of_one(_is_map, _edge)),
    Fault("output in eight bits", "engine", "quantised without being asked to", _of_one(_is_float, _quantised)),
    Fault("an infinity", "engine", "an overflow where the value is largest", _of_one(_is_float, _infinite)),
    Fault(
        "NaN in larger batches only",
        "engine",
        "the last item of a batch reads beyond its memory",
        _of_one(lambda output, shape: output.batched and shape[0] > 1 and _is_float(output, shape), _last_nan),
    ),
    Fault(
        "another dtype", "engine", "an output in float64", _of_one(_is_float, lambda value: value.astype(np.float64))
    ),
    Fault("outputs exchanged", "engine", "two outputs of the same shape, by position", _outputs_exchanged),
    Fault("batch fixed at one", "engine", "a size was folded while tracing", _of_all(_rows(lambda v: v[:1]), batch=2)),
    Fault(
        "first item repeated",
        "engine",
        "every item of a batch is the first one",
        _of_all(_rows(lambda value: np.repeat(value[:1], len(value), 0)), batch=2),
    ),
    Fault("two items exchanged", "engine", "the order of a batch", _of_all(_rows(_exchanged), batch=2)),
    Fault("items leak into each other", "engine", "a norm over the whole batch", _of_all(_rows(_leaking), batch=2)),
    Fault("nondeterministic", "engine", "a race: another result each time", _nondeterministic),
    Fault("outputs of the run before", "engine", "read before they were written", _of_the_run_before),
    Fault("outputs overwritten by the next run", "engine", "one buffer for all runs", _one_buffer),
    Fault("inputs rounded to TF32", "engine", "matrix units with 10 bits", _fewer_bits),
)
"""Kinds of fault that wrap the engine."""
