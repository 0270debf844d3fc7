"""The two ends: the stored images give the stored inputs, and the stored outputs the stored results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from convkit.proof._ends import RESULTS

from convkit.artifact import spec_from_manifest
from convkit.processing import find_decode, synthetic_scenes
from convkit.proof import check_ends


@pytest.fixture
def folder(toy_artifact, tmp_path) -> Path:
    return Path(shutil.copytree(toy_artifact.path, tmp_path / "copy"))


def checks(folder: Path, artifact):
    spec = spec_from_manifest(artifact.manifest)
    return {check.kind: check for check in check_ends(folder, "toy", spec, find_decode("toy", spec.decode))}


def test_what_was_stored_is_reproduced_bit_for_bit(toy, toy_artifact, folder):
    found = checks(folder, toy_artifact)
    assert set(found) == {"preprocess", "decode"}
    assert found["preprocess"].passed
    assert found["preprocess"].figures == {"rel_l2": 0.0}
    assert found["decode"].passed


def test_the_stored_images_are_the_ones_that_were_prepared(toy_artifact):
    for number, scene in enumerate(synthetic_scenes(2, seed=0)):
        np.testing.assert_array_equal(cv2.imread(str(toy_artifact.path / "proof" / f"image_{number}.png")), scene)


def test_another_image_does_not_give_the_stored_input(toy, toy_artifact, folder):
    cv2.imwrite(str(folder / "proof" / "image_1.png"), synthetic_scenes(1, seed=5)[0])
    found = checks(folder, toy_artifact)
    assert not found["preprocess"].passed
    assert found["preprocess"].figures["rel_l2"] > 0.1
    assert found["decode"].passed


@pytest.mark.parametrize(("amount", "passed"), [(0.0, True), (1, True), (8, False)])
def test_a_rounding_of_one_level_passes_and_a_shift_of_eight_does_not(toy, toy_artifact, folder, amount, passed):
    path = folder / "proof" / "image_0.png"
    image = cv2.imread(str(path)).astype(np.int64)
    cv2.imwrite(str(path), np.clip(image + np.int64(amount), 0, 255).astype(np.uint8))
    assert checks(folder, toy_artifact)["preprocess"].passed is passed


def test_other_results_than_the_stored_ones_are_located(toy, toy_artifact, folder):
    document = json.loads((folder / RESULTS).read_text())
    document["results"][0][1]["classes"][0]["probability"] += 0.01
    (folder / RESULTS).write_text(json.dumps(document))
    found = checks(folder, toy_artifact)
    assert found["preprocess"].passed
    assert not found["decode"].passed
    assert found["decode"].note.startswith("results[1].classes[0].probability")
