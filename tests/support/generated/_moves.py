"""Steps that move numbers: reshape, slice, pad, gather, scatter and the like."""

from __future__ import annotations

import numpy as np
from support.generated._graph import Graph, Value, maker


@maker
def transpose(g: Graph, x: Value) -> str | None:
    if g.whole(0, 3) == 0:
        return g.one("Transpose", x.name)
    return g.one("Transpose", x.name, perm=[int(axis) for axis in g.rng.permutation(x.rank)])


@maker
def reshape(g: Graph, x: Value) -> str | None:
    shape = list(x.shape)
    if x.rank > 1 and g.whole(0, 1):
        axis = g.whole(0, x.rank - 2)
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    elif max(shape) > 1:
        axis = int(np.argmax(shape))
        factor = next((n for n in (2, 3, 5) if shape[axis] % n == 0), 1)
        shape[axis : axis + 1] = [factor, shape[axis] // factor]
    if g.whole(0, 1):
        shape[g.whole(0, len(shape) - 1)] = -1
    shape = [0 if axis < x.rank and size == x.shape[axis] and g.whole(0, 2) == 0 else size
             for axis, size in enumerate(shape)]  # fmt: skip
    return g.one("Reshape", x.name, g.integers(*shape))


@maker
def flatten(g: Graph, x: Value) -> str | None:
    return g.one("Flatten", x.name, axis=g.whole(-x.rank, x.rank))


@maker
def squeeze(g: Graph, x: Value) -> str | None:
    if g.whole(0, 1) and x.rank < 5:
        return g.one("Unsqueeze", x.name, g.integers(g.whole(-x.rank - 1, x.rank)))
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    if not ones or x.rank < 3:
        return None
    axis = ones[0]
    return g.one("Squeeze", x.name, g.integers(axis - g.choice(0, x.rank)))


@maker
def slice_(g: Graph, x: Value) -> str | None:
    axes = [int(axis) for axis in g.rng.permutation(x.rank)[: g.whole(1, x.rank)]]
    starts, ends, steps = [], [], []
    for axis in axes:
        size = x.shape[axis]
        step = g.choice(1, 1, 2, -1, -2)
        low, high = sorted((g.whole(0, size - 1), g.whole(1, size)))
        low, high = (low, high) if low < high else (0, size)
        if step > 0:
            start, end = low, g.choice(high, size + 5, 2**31 - 1)
        else:
            start, end = g.choice(high - 1, size + 3), g.choice(-size - 1, low - 1 if low else -size - 7)
        starts.append(start - size if 0 <= start < size and g.whole(0, 1) else start)
        ends.append(end)
        steps.append(step)
    named = [axis - x.rank if g.whole(0, 1) else axis for axis in axes]
    return g.one("Slice", x.name, g.integers(*starts), g.integers(*ends), g.integers(*named), g.integers(*steps))


@maker
def pad(g: Graph, x: Value) -> str | None:
    mode = g.choice("constant", "reflect", "edge", "wrap")
    most = min(2, min(x.shape) - 1) if mode == "reflect" else min(2, min(x.shape))
    amounts = [g.whole(0, max(most, 0)) for _ in range(2 * x.rank)]
    if mode == "constant" and min(x.shape) > 2 and g.whole(0, 2) == 0:
        amounts[g.whole(0, 2 * x.rank - 1)] = -1
    inputs = [x.name, g.integers(*amounts)]
    if mode == "constant" and g.whole(0, 1):
        inputs.append(g.constant(np.float32(0.7)))
    return g.one("Pad", *inputs, mode=mode)


@maker
def concat(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    shape = [g.whole(1, 3) if other == axis else size for other, size in enumerate(x.shape)]
    return g.one("Concat", x.name, g.normal(*shape), x.name, axis=axis - g.choice(0, x.rank))


@maker
def split(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    size = x.shape[axis]
    if size < 2:
        return None
    if g.whole(0, 1):
        first, second = g.node("Split", [x.name], 2, axis=axis - g.choice(0, x.rank), num_outputs=2)
    else:
        first, second = g.node("Split", [x.name, g.integers(1, size - 1)], 2, axis=axis)
    return g.choice(first, second)


@maker
def tile(g: Graph, x: Value) -> str | None:
    return g.one("Tile", x.name, g.integers(*[g.whole(1, 2) for _ in x.shape]))


@maker
def expand(g: Graph, x: Value) -> str | None:
    shape = [g.whole(1, 3) if size == 1 else g.choice(1, size) for size in x.shape]
    return g.one("Expand", x.name, g.integers(*([2] if x.rank < 4 and g.whole(0, 1) else []), *shape))


@maker
def gather(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    size = x.shape[axis]
    shape = g.choice((), (2,), (2, 2)) if x.rank > 1 else (2,)
    indices = g.constant(g.rng.integers(-size, size, shape).astype(g.choice(np.int64, np.int32)))
    return g.one("Gather", x.name, indices, axis=axis - g.choice(0, x.rank))


@maker
def gather_elements(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    shape = [g.whole(1, size) for size in x.shape]
    indices = g.constant(g.rng.integers(-x.shape[axis], x.shape[axis], shape))
    return g.one("GatherElements", x.name, indices, axis=axis - g.choice(0, x.rank))


@maker
def gather_nd(g: Graph, x: Value) -> str | None:
    if x.rank < 2:
        return None
    shared = g.choice(0, 0, 1) if x.rank > 2 else 0
    width = g.whole(1, x.rank - shared)
    columns = [g.rng.integers(-size, size, (*x.shape[:shared], 3)) for size in x.shape[shared : shared + width]]
    return g.one("GatherND", x.name, g.constant(np.stack(columns, -1)), batch_dims=shared)


@maker
def scatter_elements(g: Graph, x: Value) -> str | None:
    axis = g.whole(0, x.rank - 1)
    size = x.shape[axis]
    count = g.whole(1, size)
    places = g.rng.permutation(size)[:count]
    shape = [count if other == axis else 1 for other in range(x.rank)]
    indices = g.constant(places.reshape(shape) - g.choice(0, size))
    return g.one("ScatterElements", x.name, indices, g.normal(*shape), axis=axis)


@maker
def scatter_nd(g: Graph, x: Value) -> str | None:
    rows = g.rng.permutation(x.shape[0])[: g.whole(1, x.shape[0])]
    return g.one("ScatterND", x.name, g.constant(rows.reshape(-1, 1)), g.normal(len(rows), *x.shape[1:]))


@maker
def triangle(g: Graph, x: Value) -> str | None:
    if x.rank < 2:
        return None
    inputs = [x.name] if g.whole(0, 1) else [x.name, g.constant(np.int64(g.whole(-2, 2)))]
    return g.one("Trilu", *inputs, upper=g.whole(0, 1))


@maker
def from_shape(g: Graph, x: Value) -> str | None:
    """Reshape by arithmetic on the shape, as exporters do."""
    shape = g.one("Shape", x.name)
    first = g.one("Slice", shape, g.integers(0), g.integers(1))
    target = g.one("Concat", first, g.integers(-1), axis=0)
    return g.one("Reshape", x.name, target)
