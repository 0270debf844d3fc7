"""The evidence an artifact carries: a few inputs with the reference outputs, to prove it again anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convkit.artifact import SAMPLES
from convkit.errors import IntegrityError
from convkit.model import TensorSpec
from convkit.processing import Prepared
from convkit.proof._runners import Compute
from convkit.proof._samples import Picture, Samples

__all__ = ["StoredReference", "load_evidence", "save_evidence"]

INDEX = "proof/samples.json"


def save_evidence(folder: Path, samples: Samples, reference: Compute, sources: list[str]) -> None:
    """Write the samples and their reference outputs below ``folder``.

    References are rounded to float32: half a unit in the last place, within the floor of the rule.
    """
    arrays: dict[str, np.ndarray] = {}
    index: dict[str, Any] = {"input": samples.tensor.name, "sources": sources, "pictures": []}
    for number, (picture, items) in enumerate(samples.prepared.items()):
        inputs = np.stack([item.tensor for item in items])
        arrays[f"{number}/input"] = inputs
        for name, value in reference({samples.tensor.name: inputs}).items():
            arrays[f"{number}/reference/{name}"] = value.astype(np.float32) if value.dtype == np.float64 else value
        index["pictures"].append({"sizes": dict(picture), "metas": [dict(item.meta) for item in items]})
    (folder / SAMPLES).parent.mkdir(exist_ok=True)
    with (folder / SAMPLES).open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    (folder / INDEX).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_evidence(folder: Path, tensor_spec: TensorSpec) -> tuple[Samples, StoredReference]:
    """Read what `save_evidence` wrote; ``tensor_spec`` describes the input."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    prepared: dict[Picture, list[Prepared]] = {}
    reference = StoredReference()
    with np.load(folder / SAMPLES, allow_pickle=False) as arrays:
        for number, entry in enumerate(index["pictures"]):
            inputs = arrays[f"{number}/input"]
            picture = tuple((str(name), int(size)) for name, size in entry["sizes"].items())
            prepared[picture] = [Prepared(row, meta) for row, meta in zip(inputs, entry["metas"], strict=True)]
            prefix = f"{number}/reference/"
            outputs = {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}
            for row, tensor in enumerate(inputs):
                reference.known[tensor.tobytes()] = {name: value[row : row + 1] for name, value in outputs.items()}
    return Samples(tensor_spec, prepared), reference


class StoredReference:
    """A `Compute` that looks the outputs of each sample up."""

    def __init__(self) -> None:
        self.known: dict[bytes, dict[str, np.ndarray]] = {}

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the stored outputs of the batch.

        Raises:
            IntegrityError: a sample is not among the stored ones.
        """
        (tensor,) = feed.values()
        try:
            rows = [self.known[row.tobytes()] for row in tensor]
        except KeyError as error:
            raise IntegrityError("The proof holds no such sample.", hint="Convert again.") from error
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
