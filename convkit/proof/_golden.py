"""Golden samples: raw inputs, prepared tensors, float64 outputs and results that an artifact carries.

With them an artifact is proved again anywhere, without the checkpoint. A proof feeds the same tensors to reference and
engine and decodes both alike, so it is blind to a preprocess or decode that changed: `GoldenSamples.replay` runs these
again on what is stored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convkit._documents import inner_file, read_document
from convkit.artifact import SAMPLES
from convkit.errors import AdapterError, InputError, IntegrityError, SettingError
from convkit.model import BATCH, Extent, ModelSpec, TensorSpec, extent_names, resolve
from convkit.processing import (
    COMPRESSED_FROM,
    Decode,
    Prepared,
    collate,
    decode_batch,
    find_preprocess,
    fitted_inputs,
    prepare,
    read_arrays,
)
from convkit.proof._cases import ItemSizes
from convkit.proof._computes import Compute, by_items, feed_key
from convkit.proof._metrics import measure
from convkit.proof._rule import DECODED
from convkit.proof._samples import Samples
from convkit.proof._verdict import Check
from convkit.results import json_difference, json_scales

__all__ = ["GoldenSamples"]

INDEX = "proof/samples.json"
INPUT_LIMIT = 0.01
"""Relative difference of an input tensor: versions of OpenCV round a little differently when they resample."""
DRIFT_LIMIT = 0.002
"""Relative difference of scale or mean of an input tensor: resampling rounds up as often as down, so it moves neither.

Pixels divided by 256 instead of 255 differ by twice that.
"""
REPLAY_SLACK = 5e-6
"""Difference of a number that the same code makes of the same values with another math library, relative to the largest
of its field: a corner at 0 comes from coordinates as large as the image.
"""


@dataclass
class GoldenSamples:
    """A few samples with their reference outputs, by item sizes.

    ``outputs`` are the reference's for each sample alone, float64 rounded to float32: half a unit in the last place,
    within the floor of the rule. ``results`` are the decoded results as JSON, empty for a model without decode.
    """

    samples: Samples
    raws: Sequence[Any]
    sources: Sequence[str]
    outputs: Mapping[ItemSizes, Sequence[Mapping[str, np.ndarray]]]
    results: Mapping[ItemSizes, list[Any]]

    @classmethod
    def record(
        cls, samples: Samples, raws: Sequence[Any], sources: Sequence[str], reference: Compute, decode: Decode | None
    ) -> GoldenSamples:
        """Return the golden samples of prepared inputs and the raw inputs that they come from."""
        outputs = {}
        for sizes, items in samples.prepared.items():
            found = [reference(collate(samples.spec.inputs, [item])) for item in items]
            outputs[sizes] = [{name: _rounded(value) for name, value in row.items()} for row in found]
        golden = cls(samples, raws, sources, outputs, {})
        golden.results = {sizes: golden._decoded(sizes, decode) for sizes in outputs} if decode else {}
        return golden

    def fitted(self, spec: ModelSpec) -> GoldenSamples:
        """Return the samples with inputs rounded to the types of another specification of the same model."""
        if spec == self.samples.spec:
            return self
        prepared = {
            sizes: [replace(item, tensors=fitted_inputs(spec.inputs, item.tensors)) for item in items]
            for sizes, items in self.samples.prepared.items()
        }
        return replace(self, samples=Samples(spec, prepared))

    def save(self, folder: Path) -> None:
        """Write the samples below ``folder``."""
        (folder / SAMPLES).parent.mkdir(exist_ok=True)
        reader = find_preprocess(self.samples.spec.preprocess).reader
        files = [
            reader.write(raw, folder / "proof" / f"input_{number}").relative_to(folder).as_posix()
            for number, raw in enumerate(self.raws)
        ]
        arrays: dict[str, np.ndarray] = {}
        index: dict[str, Any] = {"sources": list(self.sources), "files": files, "sizes": []}
        for number, (sizes, items) in enumerate(self.samples.prepared.items()):
            for row, item in enumerate(items):
                arrays |= {f"{number}/{row}/{name}": value for name, value in item.tensors.items()}
                arrays |= {f"{number}/{row}/output/{name}": v for name, v in self.outputs[sizes][row].items()}
            metas = [dict(item.meta) for item in items]
            index["sizes"].append({"sizes": dict(sizes), "metas": metas, "results": self.results.get(sizes, [])})
        small = sum(value.nbytes for value in arrays.values()) <= COMPRESSED_FROM
        with (folder / SAMPLES).open("wb") as stream:
            (np.savez_compressed if small else np.savez)(stream, **arrays)  # type: ignore[arg-type]
        (folder / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, listed: Collection[str] | None = None) -> GoldenSamples:
        """Return what `save` wrote below ``folder``; ``listed`` are the files that it may consist of, by default all.

        Raises:
            IntegrityError: a file is missing, damaged or not listed, or does not fit the specification.
        """
        try:
            return cls._load(folder, spec, listed)
        except (OSError, ValueError, LookupError, AdapterError, InputError, SettingError) as error:
            raise IntegrityError(
                f"The golden samples of {folder} cannot be read: {str(error).splitlines()[0]}",
                hint="Restore the artifact or convert again.",
            ) from error

    @classmethod
    def _load(cls, folder: Path, spec: ModelSpec, listed: Collection[str] | None) -> GoldenSamples:
        from convkit.proof._samples_index import SamplesIndex

        index = read_document(folder / INDEX, SamplesIndex)
        for file in (INDEX, SAMPLES, *map(inner_file, index["files"])):
            if listed is not None and file not in listed:
                raise ValueError(f"the manifest does not list {file}")
        reader = find_preprocess(spec.preprocess).reader
        prepared: dict[ItemSizes, list[Prepared]] = {}
        outputs, results = {}, {}
        arrays = read_arrays(folder / SAMPLES)
        for number, entry in enumerate(index["sizes"]):
            sizes = tuple(entry["sizes"].items())

            def stored(row: int, tensor: TensorSpec, *, output: bool = False) -> np.ndarray:
                array = arrays[f"{number}/{row}/{'output/' * output}{tensor.name}"]  # noqa: B023
                _check_shape(array, tensor, tensor.shape if output else tensor.item_shape, {**dict(sizes), BATCH: 1})  # noqa: B023
                return array

            rows = range(len(entry["metas"]))
            prepared[sizes] = [
                Prepared({tensor.name: stored(row, tensor) for tensor in spec.inputs}, entry["metas"][row])
                for row in rows
            ]
            outputs[sizes] = [
                {tensor.name: stored(row, tensor, output=True) for tensor in spec.outputs} for row in rows
            ]
            results[sizes] = entry["results"]
        raws = [reader.read(folder / file) for file in index["files"]]
        return cls(Samples(spec, prepared), raws, index["sources"], outputs, results)

    def reference(self) -> Compute:
        """Return a `Compute` that looks the outputs of each stored item up.

        It raises `IntegrityError` for an item that is not stored.
        """
        spec, known = self.samples.spec, {}
        for sizes, items in self.samples.prepared.items():
            for item, outputs in zip(items, self.outputs[sizes], strict=True):
                known[feed_key(collate(spec.inputs, [item]))] = outputs

        def look_up(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            try:
                return known[feed_key(feed)]
            except KeyError:
                raise IntegrityError("The proof contains no such sample.", hint="Convert again.") from None

        return lambda feed: by_items(spec, look_up, feed)

    def replay(self, decode: Decode | None) -> list[Check]:
        """Return the checks of preprocess and decode against what is stored, for each of the item sizes."""
        checks = []
        for sizes, items in self.samples.prepared.items():
            checks += self._preprocess_checks(sizes, items)
            if decode:
                stored, found = self.results[sizes], self._decoded(sizes, decode)
                note = json_difference(stored, found, REPLAY_SLACK, "results", json_scales(stored, "results"))
                checks.append(Check("decode", _case(sizes), DECODED, not note, {}, {}, note or "as stored"))
        return checks

    def _preprocess_checks(self, sizes: ItemSizes, items: Sequence[Prepared]) -> list[Check]:
        if not items or len(items) != len(self.raws):
            raise IntegrityError(
                f"There are {len(self.raws)} raw inputs for {len(items)} golden samples of {_case(sizes)}.",
                hint="Restore the artifact or convert again.",
            )
        spec = self.samples.spec
        preprocess = find_preprocess(spec.preprocess, dict(sizes))
        found = [prepare(spec, preprocess, raw) for raw in self.raws]
        metas = [json.loads(json.dumps(dict(item.meta))) for item in found]
        stored = [dict(item.meta) for item in items]
        note = json_difference(stored, metas, REPLAY_SLACK, "meta", json_scales(stored, "meta"))
        checks = []
        for tensor in spec.inputs:
            pairs = zip(items, found, strict=True)
            values = [(a.tensors[tensor.name], b.tensors[tensor.name]) for a, b in pairs]
            figures = {
                "rel_l2": max(measure(a, b).rel_l2 for a, b in values),
                "drift": max(_drift(a, b) for a, b in values),
            }
            limits = {"rel_l2": INPUT_LIMIT, "drift": DRIFT_LIMIT}
            passed = all(figures[key] <= limits[key] for key in limits) and not note
            checks.append(Check("preprocess", _case(sizes), tensor.name, passed, figures, limits, note))
        return checks

    def _decoded(self, sizes: ItemSizes, decode: Decode) -> list[Any]:
        """Return what the stored outputs decode to, in plain JSON."""
        pairs = zip(self.outputs[sizes], self.samples.prepared[sizes], strict=True)
        results = [decode_batch(decode, outputs, [item.meta])[0].to_json() for outputs, item in pairs]
        return list(json.loads(json.dumps(results)))


def _drift(stored: np.ndarray, found: np.ndarray) -> float:
    """Return by how much all values of a tensor are too large or too high, relative to their root mean square."""
    if stored.shape != found.shape:
        return math.inf
    expected, actual = stored.astype(np.float64), found.astype(np.float64)
    power = float(np.mean(expected**2)) if expected.size else 0.0
    if not power:
        return 0.0
    scale = float(np.mean(expected * actual)) / power - 1
    return max(abs(scale), abs(float(np.mean(actual - expected))) / math.sqrt(power))


def _check_shape(array: np.ndarray, tensor: TensorSpec, shape: Sequence[Extent], sizes: Mapping[str, int]) -> None:
    """Raise ValueError for a stored array that the tensor cannot have at these sizes."""
    known = {name for extent in shape for name in extent_names(extent)} <= sizes.keys()
    wanted = resolve(shape, sizes) if known else None
    if array.dtype.kind not in "biuf" or array.ndim != len(shape) or wanted not in (None, array.shape):
        raise ValueError(f"the array of {tensor.name!r} is {array.dtype} {list(array.shape)}")


def _rounded(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype == np.float64 else value


def _case(sizes: ItemSizes) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes) or "stored samples"
