"""The two ends of a predictor, replayed: the stored images give the stored inputs, these outputs the stored results.

A proof feeds the same tensors to reference and engine and decodes both alike, so it is blind to a
preprocess or decode that changed: another version of a plugin, say, that swaps mean and deviation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convkit.model import ModelSpec, resolve
from convkit.processing import Decode, find_preprocess
from convkit.proof._errors import measure
from convkit.proof._evidence import load_evidence
from convkit.proof._matching import json_difference
from convkit.proof._rule import DECODED
from convkit.proof._samples import Picture, fit
from convkit.proof._verdict import Check

__all__ = ["check_ends", "save_ends"]

RESULTS = "proof/results.json"
INPUT_LIMIT = 0.01
"""Relative difference of an input tensor: versions of OpenCV round a little differently when they resample."""
SLACK = 1e-4


def save_ends(folder: Path, spec: ModelSpec, images: Sequence[np.ndarray], decode: Decode | None) -> None:
    """Write the images behind the stored samples, losslessly, and what their reference outputs decode to.

    `save_evidence` must have written ``folder`` before.
    """
    import cv2

    for number, image in enumerate(images):
        (folder / _image_name(number)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    results = [found for _, found in _results(folder, spec, decode)] if decode else []
    document = {"images": len(images), "results": results}
    (folder / RESULTS).write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def check_ends(folder: Path, adapter: str, spec: ModelSpec, decode: Decode | None) -> list[Check]:
    """Return the checks of preprocess and decode against what `save_ends` wrote, one a picture size."""
    stored = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    checks = _check_inputs(folder, adapter, spec, stored["images"])
    if decode and stored["results"]:
        for (picture, found), expected in zip(_results(folder, spec, decode), stored["results"], strict=True):
            note = json_difference(expected, found, SLACK, "results")
            checks.append(Check("decode", _case(picture), DECODED, not note, {}, {}, note or "as stored"))
    return checks


def _check_inputs(folder: Path, adapter: str, spec: ModelSpec, count: int) -> list[Check]:
    from convkit.processing import read_image

    images = [read_image(folder / _image_name(number)) for number in range(count)]
    samples, _ = load_evidence(folder, spec.inputs[0])
    checks = []
    for picture, items in samples.prepared.items():
        sizes = dict(picture)
        preprocess = find_preprocess(adapter, spec.preprocess, sizes)
        shape = resolve(spec.inputs[0].shape[1:], sizes)
        found = [fit(preprocess(image), shape) for image in images]
        error = max(measure(a.tensor, b.tensor).rel_l2 for a, b in zip(items, found, strict=True))
        metas = [json.loads(json.dumps(dict(item.meta))) for item in found]
        note = json_difference([dict(item.meta) for item in items], metas, SLACK, "meta")
        passed = error <= INPUT_LIMIT and not note
        figures, limits = {"rel_l2": error}, {"rel_l2": INPUT_LIMIT}
        checks.append(Check("preprocess", _case(picture), spec.inputs[0].name, passed, figures, limits, note))
    return checks


def _results(folder: Path, spec: ModelSpec, decode: Decode) -> list[tuple[Picture, list[Any]]]:
    """Return what the stored reference outputs decode to, in plain JSON, by picture size."""
    samples, reference = load_evidence(folder, spec.inputs[0])
    found = []
    for picture, items in samples.prepared.items():
        outputs = reference({spec.inputs[0].name: np.stack([item.tensor for item in items])})
        results = [result.to_json() for result in decode(outputs, [item.meta for item in items])]
        found.append((picture, json.loads(json.dumps(results))))
    return found


def _image_name(number: int) -> str:
    return f"proof/image_{number}.png"


def _case(picture: Picture) -> str:
    return ", ".join(f"{name} {size}" for name, size in picture) or "stored samples"
