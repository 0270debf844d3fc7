"""What each layer of a graph gives on one sample, channel by channel: a check that sees what no output shows.

Rounding averages out over the pixels of a channel, and a wrong weight does not: a layer that is hidden behind the
rounding of forty others stands out in its own mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from convkit.artifact import Artifact
from convkit.backends import open_session
from convkit.errors import IntegrityError, SettingError
from convkit.graph import save_onnx
from convkit.graph.precision import model_types, outputs_of
from convkit.model import ModelSpec, find_precision
from convkit.processing import collate, read_arrays
from convkit.proof._computes import feed_key
from convkit.proof._samples import Samples
from convkit.proof._verdict import Check

if TYPE_CHECKING:
    import onnx

__all__ = ["LAYERS", "Layers", "graph_runs", "layer_feed"]

LAYERS = "proof/layers.npz"
FACTOR, FACTOR_16 = 3.0, 1.0
"""How many times as much as PyTorch an engine may err in a layer, and in the 16-bit precisions. There nearly all of an
error comes from rounded weights, which engines have in common; in float32 from the order of sums, and in int8 from
values that are close to the next step, which are each engine's own."""
FLOOR_ULPS, FLOOR_ULPS_16 = 8.0, 0.125
"""Units in the last place of a layer's magnitude that are always allowed besides, in float32 and below."""
SPATIAL = ("Conv", "ConvTranspose", "DeformConv")
PLAIN = ("Gemm", "MatMul")
AT_ONCE = 3 << 29
"""Bytes of the layers that an engine holds in memory together: each part runs the whole graph again."""

Visit = Callable[[Mapping[str, np.ndarray], Callable[[str, np.ndarray], object]], None]
"""Runs a graph on a feed and calls a function with each output, see `Session.visit`."""
Runs = Callable[["onnx.ModelProto"], Visit]
"""Makes a graph ready to run; the session lives as long as what it returns."""


@dataclass(frozen=True)
class Layers:
    """The mean and the root mean square of every channel of the layers of a graph on one sample.

    ``figures`` has an array [2, 2, channels] for each layer: what PyTorch gives in float64, and in the precision.
    ``errors`` is the largest difference of the two, relative to the largest root mean square of the layer. ``axes`` are
    those of the channels, ``key`` is that of the sample. Layers are known by the names of their tensors, which rewrites
    of a precision keep.
    """

    names: tuple[str, ...]
    axes: tuple[int, ...]
    figures: tuple[np.ndarray, ...]
    errors: np.ndarray
    precision: str
    key: bytes

    @classmethod
    def measure(
        cls, model: onnx.ModelProto, feed: Mapping[str, np.ndarray], exact: Runs, baseline: Runs, precision: str
    ) -> Layers:
        """Return the layers of a float32 graph; ``exact`` runs it in float64, ``baseline`` as PyTorch in the precision.

        Both run it once, and must hand on each layer without keeping it.

        An error is never smaller than that of a layer before: what one layer got right by luck says nothing.

        Raises:
            EnvironmentProblem, ConversionError: the graph cannot be run.
        """
        axes = _axes(model)
        right, found = (_figures(model, axes, runs, feed) for runs in (exact, baseline))
        names = tuple(
            name for name in axes if name in right and name in found and np.isfinite([right[name], found[name]]).all()
        )
        figures = tuple(np.stack([right[name], found[name]]) for name in names)
        errors = np.array([_beyond(np.stack([right[name]] * 2), found[name]) for name in names], np.float64)
        errors = np.maximum.accumulate(errors) if names else errors
        return cls(names, tuple(axes[name] for name in names), figures, errors, precision, feed_key(feed))

    def of_feed(self, feed: Mapping[str, np.ndarray]) -> Layers:
        """Return the same for a sample whose inputs were rounded."""
        return replace(self, key=feed_key(feed))

    def save(self, folder: Path) -> None:
        """Write the figures below ``folder``."""
        counts = [figure.shape[2] for figure in self.figures]
        table = np.concatenate(self.figures, axis=2) if self.figures else np.zeros((2, 2, 0))
        (folder / LAYERS).parent.mkdir(exist_ok=True)
        with (folder / LAYERS).open("wb") as stream:
            np.savez_compressed(
                stream, names=np.array(self.names, np.str_), axes=np.array(self.axes, np.int64),
                counts=np.array(counts, np.int64), figures=table, errors=self.errors,
                precision=np.array(self.precision), key=np.frombuffer(self.key, np.uint8),
            )  # fmt: skip

    @classmethod
    def load(cls, artifact: Artifact) -> Layers | None:
        """Return what `save` wrote into an artifact; None for one that has none, such as an older one.

        Raises:
            IntegrityError: the file cannot be read.
        """
        if LAYERS not in artifact.manifest["files"]:
            return None
        try:
            arrays = read_arrays(artifact.file(LAYERS))
            counts, table = arrays["counts"], arrays["figures"]
            names, errors = tuple(map(str, arrays["names"].tolist())), arrays["errors"].astype(np.float64)
            axes = tuple(map(int, arrays["axes"].tolist()))
            if not len(names) == len(axes) == len(counts) == len(errors) or (counts < 0).any():
                raise ValueError("its arrays do not fit each other")
            if table.shape != (2, 2, int(counts.sum())) or not set(axes) <= {1, -1}:
                raise ValueError("its arrays do not fit each other")
            figures = tuple(np.split(table.astype(np.float64), np.cumsum(counts)[:-1], axis=2)) if names else ()
            return cls(
                names, axes, figures, errors, find_precision(str(arrays["precision"])).name, arrays["key"].tobytes()
            )
        except (OSError, ValueError, TypeError, LookupError, SettingError) as error:
            raise IntegrityError(
                f"{LAYERS} of {artifact.path} cannot be read: {str(error).splitlines()[0]}",
                hint="Restore the artifact or convert again.",
            ) from error

    def check(self, model: onnx.ModelProto, samples: Samples, backend: str, device: str) -> Check | None:
        """Return the check of all layers that a graph has under their names; None where there are none to compare.

        A figure may lie anywhere between float64's and PyTorch's in the precision, and as far outside as these two are
        apart at most; in float32, in int8 and on GPUs (whose kernels blend and add in 16 bits in places) three times as
        far; and some units in the last place, in 16 bits with one more for a single pixel, and the less the more pixels
        there are: roundings of so many add up to no more than their root.

        Raises:
            ConvkitError: the graph cannot be run with its layers as outputs.
        """
        feed = self._feed(samples)
        made = {name for node in model.graph.node for name in node.output} & model_types(model).keys()
        axes = {name: axis for name, axis in zip(self.names, self.axes, strict=True) if name in made}
        if feed is None or not axes:
            return None
        found: dict[str, np.ndarray] = {}
        pixels: dict[str, int] = {}
        for part in _parts(model, axes, feed):
            found |= _figures(model, {name: axes[name] for name in part}, graph_runs(backend, device), feed, pixels)
        factor, floor, unit = self._rule(device)
        worst, note = 0.0, ""
        for name, figures, error in zip(self.names, self.figures, self.errors.tolist(), strict=True):
            if name not in axes:
                continue
            limit = factor * error + floor + unit / math.sqrt(pixels.get(name, 1))
            given = found.get(name, np.zeros((2, 0)))  # an engine that leaves a layer out fails
            share = _beyond(figures, given) / limit if math.isfinite(limit) else 0.0
            if share > 1 and not note:
                note = _note(name, figures, given)
            worst = max(worst, share)
        case = f"{len(axes)} layers"
        return Check("layers", case, "all layers", worst <= 1, {"share": worst}, {"share": 1.0}, note)

    def _rule(self, device: str) -> tuple[float, float, float]:
        """Return the factor of errors, the share of a layer's magnitude that is always allowed, and that of a pixel."""
        wide, known = self.precision == "fp32", find_precision(self.precision)
        factor = FACTOR if wide or known.rest or device != "cpu" else FACTOR_16
        return factor, (FLOOR_ULPS if wide else FLOOR_ULPS_16) * known.ulp, 0.0 if wide else known.ulp

    def _feed(self, samples: Samples) -> Mapping[str, np.ndarray] | None:
        """Return the sample that the figures are of."""
        spec = samples.spec
        for items in samples.prepared.values():
            for item in items:
                feed = collate(spec.inputs, [item] * spec.batch.min)
                if feed_key(feed) == self.key:
                    return feed
        return None


def layer_feed(spec: ModelSpec, samples: Samples, sizes: tuple[tuple[str, int], ...]) -> Mapping[str, np.ndarray]:
    """Return the first sample of these sizes, in the smallest batch there is."""
    return collate(spec.inputs, [samples.prepared[sizes][0]] * spec.batch.min)


def graph_runs(backend: str, device: str) -> Runs:
    """Return what runs graphs by a backend."""

    def opened(model: onnx.ModelProto) -> Visit:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "layers.onnx"
            save_onnx(model, file)
            return open_session(backend, file, device=device).visit

    return opened


def _axes(model: onnx.ModelProto) -> dict[str, int]:
    """Return the axis of the channels of each layer, by the name of its tensor: what has weights, in order."""
    types = model_types(model)
    fixed = {tensor.name for tensor in model.graph.initializer}
    axes = {}
    for node in model.graph.node:
        if all(name in fixed for name in node.input):
            fixed.update(node.output)
        elif len(node.input) > 1 and node.input[1] in fixed and node.output[0] in types:
            if node.op_type in SPATIAL:
                axes[node.output[0]] = 1
            elif node.op_type in PLAIN:
                axes[node.output[0]] = -1
    return axes


def _parts(model: onnx.ModelProto, names: Iterable[str], feed: Mapping[str, np.ndarray]) -> Iterator[list[str]]:
    """Yield the layers in as few parts as memory has room for.

    One of an unknown size counts as a 64th of the room.
    """
    fixed = {
        dim.dim_param: size
        for value in model.graph.input
        if value.name in feed
        for dim, size in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=False)
        if dim.dim_param
    }
    sizes = {}
    for value in (*model.graph.value_info, *model.graph.output):
        shape = [dim.dim_value or fixed.get(dim.dim_param, 0) for dim in value.type.tensor_type.shape.dim]
        sizes[value.name] = 4 * math.prod(shape)
    part: list[str] = []
    room = AT_ONCE
    for name in names:
        size = sizes.get(name) or AT_ONCE // 64
        if part and size > room:
            yield part
            part, room = [], AT_ONCE
        part.append(name)
        room -= size
    if part:
        yield part


def _figures(
    model: onnx.ModelProto,
    axes: Mapping[str, int],
    runs: Runs,
    feed: Mapping[str, np.ndarray],
    pixels: dict[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Return mean and root mean square [2, channels] of each layer with values; ``pixels`` gets how many each has."""
    figures = {}

    def take(name: str, value: np.ndarray | None) -> None:
        if name in axes and value is not None and value.ndim > 1 and value.size:
            rows = np.moveaxis(value, axes[name], 0).astype(np.float64, copy=False)
            rows = rows.reshape(len(rows), -1)
            squares = np.einsum("ij,ij->i", rows, rows) / rows.shape[1]
            figures[name] = np.stack([rows.mean(axis=1), np.sqrt(squares)])
            if pixels is not None:
                pixels[name] = rows.shape[1]

    with np.errstate(all="ignore"):
        with outputs_of(model, list(axes)) as asked:
            visit = runs(asked)
        visit(feed, take)
    return figures


def _beyond(known: np.ndarray, found: np.ndarray) -> float:
    """Return how far figures lie outside of the two that are known, at most, relative to the magnitude of the layer."""
    if known.shape[1:] != found.shape or not np.isfinite(found).all():
        return math.inf
    scale = float(known[0, 1].max(initial=0.0))
    outside = float(_outside(known, found).max(initial=0.0))
    return outside / scale if scale else (0.0 if outside == 0 else math.inf)


def _outside(known: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(np.maximum(known.min(axis=0) - found, found - known.max(axis=0)), 0.0))


def _note(name: str, known: np.ndarray, found: np.ndarray) -> str:
    where = f"the first layer that differs is {name}"
    if known.shape[1:] != found.shape:
        return f"{where}: {found.shape[-1]} channels for {known.shape[-1]}"
    if not np.isfinite(found).all():
        return f"{where}: it has NaN or infinity"
    row, channel = np.unravel_index(int(np.argmax(_outside(known, found))), found.shape)
    what = ("mean", "root mean square")[int(row)]
    right, value = known[0, row, channel], found[row, channel]
    return f"{where}: channel {channel} has the {what} {value:.6g} where {right:.6g} is right"
