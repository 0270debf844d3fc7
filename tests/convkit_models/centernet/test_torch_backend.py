"""Every form of a CenterNet in the torch backend: proved against float64, and box for box what ONNX Runtime finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import make_checkpoint

from convkit import convert, load, validate
from convkit.imaging import synthetic_scenes


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "net.pth", classes=3)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["heads", "tutorial", "detections"])
def test_a_form_is_proved_and_finds_the_same_boxes(weights, tmp_path, form):
    """Batch, height and width vary, so shapes within the graph depend on the input."""
    shape = ["batch=1:1:3", "height=64:64:128", "width=64:96:128"]
    artifact = convert("centernet", weights=weights, output=tmp_path / "a", form=form, shape=shape, samples=2)
    verdict = validate(artifact.path, backend="torch")
    assert verdict.passed, verdict.headline
    images = synthetic_scenes(3, seed=5)
    with load(artifact.path) as known, load(artifact.path, backend="torch") as found:
        for ours, theirs in zip(found(images), known(images), strict=True):
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
            clear = np.abs(np.diff(theirs.scores, prepend=2, append=-1))
            kept = (clear[:-1] > 1e-4) & (clear[1:] > 1e-4)  # near ties may change places
            np.testing.assert_array_equal(ours.class_ids[kept], theirs.class_ids[kept])
            np.testing.assert_allclose(ours.boxes[kept], theirs.boxes[kept], atol=0.05)
            assert kept.any()
