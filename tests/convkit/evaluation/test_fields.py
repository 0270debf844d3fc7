"""What annotations say of images besides, such as of their camera, reaches the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.blobs import write_coco

from convkit.errors import InputError, SettingError
from convkit.evaluation import EvaluationOptions, EvaluationReport, evaluate_artifact
from convkit.evaluation._ray import _Worker
from convkit.processing import ImageReader

COUNT = 6


@pytest.fixture
def shaded(blobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a number ``shade`` belong to each image, which makes it darker."""

    def join(self: ImageReader, raw: np.ndarray, companions: Mapping[str, Any]) -> np.ndarray:
        if not isinstance(companions["shade"], int | float):
            raise InputError("There is no such shade.", hint="Give a number.")
        return (raw * float(companions["shade"])).astype(np.uint8)

    monkeypatch.setattr(ImageReader, "companions", ("shade",))
    monkeypatch.setattr(ImageReader, "join", join)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data", COUNT, categories={"green": 3, "red": 7})


def give(data: Path, *shades: Any) -> None:
    """Write a shade into the entries of images; None leaves it out."""
    document = json.loads(data.read_text())
    for entry, shade in zip(document["images"], shades, strict=True):
        entry.pop("shade", None)
        entry |= {} if shade is None else {"shade": shade}
    data.write_text(json.dumps(document))


def evaluate(artifact: Any, data: Path, **options: Any) -> EvaluationReport:
    return evaluate_artifact(artifact, data, data.parent / "images", EvaluationOptions(**options))


def test_images_are_run_with_their_fields(shaded: None, blob_artifact: Any, data: Path, tmp_path: Path) -> None:
    """The reference are images that are dark themselves."""
    give(data, 1, 0, 1, 1, 0, 1)
    state = tmp_path / "state"
    found = evaluate(blob_artifact, data, resume=state)
    assert 0.1 < found.figures["onnxruntime"]["AP"] < 0.9
    assert found.notes == ()
    give(data, 1, 0, 0, 1, 0, 1)
    assert evaluate(blob_artifact, data, resume=state).kept == COUNT - 1
    give(data, *[None] * COUNT)
    for name in ("00001", "00004"):
        cv2.imwrite(str(data.parent / "images" / f"{name}.png"), np.zeros((64, 96, 3), np.uint8))
    dark = evaluate(blob_artifact, data)
    assert dark.figures == found.figures
    assert dark.notes == ("the annotations have no 'shade' of the images; that of the artifact is taken",)


def test_a_field_that_only_some_have_is_refused_before_an_image_is_run(
    shaded: None, blob_artifact: Any, data: Path, tmp_path: Path
) -> None:
    give(data, 1, 1, 1, 1, None, None)
    (data.parent / "images" / "00000.png").write_bytes(b"nothing")
    with pytest.raises(SettingError, match=r"2 of 6 images have no 'shade', the first is 00004\.png") as caught:
        evaluate(blob_artifact, data)
    assert caught.value.hint
    with pytest.raises(InputError, match=r"00000\.png"):
        evaluate(blob_artifact, data, limit=4)


def test_a_wrong_field_is_an_error_of_its_image(shaded: None, blob_artifact: Any, data: Path, tmp_path: Path) -> None:
    give(data, 1, 1, 1, "dark", 1, 1)
    with pytest.raises(InputError, match=r"00003\.png: There is no such shade"):
        evaluate(blob_artifact, data, resume=tmp_path / "state")
    give(data, *[1] * COUNT)
    assert evaluate(blob_artifact, data, resume=tmp_path / "state").kept == 3


def test_a_worker_of_a_cluster_gets_them_too(shaded: None, blob_artifact: Any, data: Path) -> None:
    files = [str(data.parent / "images" / f"{index:05d}.png") for index in range(2)]
    batch = {
        "id": np.array([100, 101]),
        "file": np.array(files, object),
        "height": np.array([64, 64]),
        "width": np.array([96, 96]),
        "fields": np.array(['{"shade": 0}', '{"shade": 1}'], object),
        "engines": np.array(["a", "a"], object),
    }
    found = _Worker({"a": blob_artifact.path}, EvaluationOptions(), {})(batch)
    assert found["id"] == [100, 101]
    assert not found["rows"][0]
    assert found["rows"][1]
