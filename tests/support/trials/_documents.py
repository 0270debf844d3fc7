"""Manifests and proofs that were changed and sealed again, and annotations and settings of strangers."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from support.mutants import TEXTS, mutants, resealed, sealed
from support.trials._small import warmed

from convkit.cli import execute
from convkit.conversion import plan_conversion
from convkit.evaluation._annotations import read_annotations

Cases = Iterator[tuple[str, Callable[[], object], int]]
NAMES = ("manifest.json", "manifest.json", "manifest.json", "proof/verdict.json", "proof/samples.json")
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 64}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [5, 5, 9, 9]},
    ],
    "categories": [{"id": 3, "name": "cat"}],
}
TOML = (
    "[convert]\nopset = {}\n", "[convert]\nshape = {}\n", "convert = {}\n", "[convert.set]\nk = {}\n",
    "[convert.toy]\nform = {}", "[convert]\n{} = 1\n",
)  # fmt: skip
TOML_VALUES = (
    "1", "-1", '"x"', "[]", "{}", "1e400", "nan", "9" * 5000, "[" * 5000, '"\\u0000"', "1979-05-27", "true", "\x00",
)  # fmt: skip


def document_cases(artifact: Path, folder: Path, random: Random, count: int) -> Cases:
    """Yield cases that inspect or validate an artifact of which one document was changed, seal fitting."""
    copy = folder / "changed"
    warmed(["inspect", str(artifact)], ["validate", str(artifact), "-q"])
    for number in range(count):
        name = random.choice(NAMES)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(artifact, copy)
        file = copy / name
        if number % 10 == 0:
            what, data = "text", random.choice(TEXTS)
        else:
            what, changed = next(mutants(json.loads(file.read_text()), random, 1))
            data = json.dumps(sealed(changed) if name == "manifest.json" else changed).encode()
        file.write_bytes(data)
        if name != "manifest.json":
            resealed(copy)
        words = ["inspect", str(copy)] if number % 4 else ["validate", str(copy), "-q"]
        yield f"{words[0]}: {name}: {what}", functools.partial(execute, words), len(data)


def settings_cases(folder: Path, random: Random, count: int) -> Cases:
    """Yield cases that read a COCO file or a configuration file."""
    for number in range(count):
        if number % 2:
            data = random.choice(TEXTS) if number % 9 == 0 else json.dumps(next(mutants(COCO, random, 1))[1]).encode()
            yield f"COCO {number}", functools.partial(_annotations, folder / "coco.json", data), len(data)
        else:
            text = random.choice(TOML).replace("{}", random.choice(TOML_VALUES))
            yield f"TOML {text[:60]!r}", functools.partial(_settings, folder / "convkit.toml", text.encode()), len(text)


def _annotations(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with contextlib.redirect_stdout(io.StringIO()):
        read_annotations(file)


def _settings(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    plan_conversion("centernet", weights="none.pth", config=file)
