"""NaN and infinity in outputs are an error that names output and input, in every way that a result is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from support.blobs import draw_blobs

from convkit import Session
from convkit.backends import open_artifact
from convkit.errors import NotFiniteError
from convkit.runtime import Predictor


class Spoiling(Session):
    """A session that puts a value into an output for one image, which it knows by its brightness."""

    def __init__(self, session: Session, value: float, dtype: str = "float32") -> None:
        self.session, self.value, self.dtype = session, value, dtype

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = {name: value.astype(self.dtype) for name, value in self.session.run(inputs).items()}
        for row, image in enumerate(inputs["images"]):
            if image.mean() > 0.9:
                outputs["maps"][row, 1, 5, 5] = self.value
        return outputs


BRIGHT = np.full((64, 96, 3), 255, np.uint8)


@pytest.fixture
def predictor(blob_artifact, blobs) -> Callable[..., Predictor]:
    return lambda *how: Predictor(blob_artifact, Spoiling(open_artifact(blob_artifact, "onnxruntime"), *how))


def images(count: int) -> list[np.ndarray]:
    return [draw_blobs(seed)[0] for seed in range(count)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_one_bad_value_refuses_the_input_and_names_the_output(predictor, value, what, dtype):
    with pytest.raises(NotFiniteError, match=rf"returned {what} in output 'maps'") as caught:
        predictor(value, dtype)(BRIGHT)
    assert (caught.value.output, caught.value.row, caught.value.exit_code) == ("maps", 0, 4)
    assert "bf16" in caught.value.hint


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_input_is_named_by_its_number_and_what_came_before_is_there(predictor, batch):
    found: list[Any] = []
    with pytest.raises(NotFiniteError, match=r"^input 5: "):
        found.extend(predictor(np.nan).stream([*images(4), BRIGHT, *images(2)], batch=batch))
    whole = 4 // batch * batch
    assert len(found) in (0, whole), "extend takes all or nothing"
    stream = predictor(np.nan).stream([*images(4), BRIGHT], batch=batch)
    assert len([next(stream) for _ in range(whole)]) == whole


def test_the_input_is_named_by_its_path(predictor, tmp_path):
    import cv2

    for name, image in (("good.png", images(1)[0]), ("bad.png", BRIGHT)):
        cv2.imwrite(str(tmp_path / name), image)
    with pytest.raises(NotFiniteError, match=r"bad\.png: The engine returned NaN"):
        predictor(np.nan)([tmp_path / "good.png", str(tmp_path / "bad.png")])


def test_prepared_inputs_are_counted_over_all_batches(predictor):
    bad = predictor(np.nan)
    with pytest.raises(NotFiniteError) as caught:
        bad.run([bad.prepare(image) for image in (*images(4), BRIGHT)])
    assert caught.value.row == 4


def test_undecoded_outputs_are_returned_as_they_are_and_their_trouble_is_told(predictor):
    bad = predictor(np.nan)
    good, spoilt = bad.outputs([images(1)[0], BRIGHT])
    assert np.isnan(spoilt["maps"]).sum() == 1
    assert (bad.trouble(good), bad.trouble(spoilt)) == ("", "output 'maps' has NaN")


def test_infinity_is_a_number_where_the_reference_has_it(predictor, blob_artifact, tmp_path):
    """As where a network masks scores with minus infinity."""
    import shutil

    from convkit import Artifact

    copy = Artifact(shutil.copytree(blob_artifact.path, tmp_path / "copy"), blob_artifact.manifest)
    with np.load(copy.path / "proof" / "samples.npz") as stored:
        arrays = dict(stored)
    arrays["0/0/output/maps"][0, 0, 0] = -np.inf
    np.savez(copy.path / "proof" / "samples.npz", **arrays)
    for value, fine in ((-np.inf, True), (np.nan, False)):
        session = Spoiling(open_artifact(blob_artifact, "onnxruntime"), value)
        masked = Predictor(copy, session)
        if fine:
            assert len(masked([BRIGHT])) == 1
        else:
            with pytest.raises(NotFiniteError):
                masked([BRIGHT])
