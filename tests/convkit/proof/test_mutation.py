"""The validator tested by mutation of what an artifact says: its processing, a constant of its graph.

Faults in graphs, engines and results are those of the self-test: see tests/convkit/self_test.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import Artifact, Verdict, validate
from convkit.artifact import MODEL, publish, staging
from convkit.self_test import VARIANTS, self_test


@dataclass
class Subject:
    """An artifact to spoil."""

    artifact: Artifact
    folder: Path

    def judged(self, change: Callable[[Path, dict[str, Any]], object]) -> Verdict:
        """Return the verdict on a copy that ``change`` spoils, sealed as if it had been made so."""
        target = self.folder / "spoilt"
        shutil.rmtree(target, ignore_errors=True)
        with staging(target) as folder:
            shutil.copytree(self.artifact.path, folder, dirs_exist_ok=True)
            (folder / "manifest.json").unlink()
            manifest = json.loads(json.dumps(self.artifact.manifest))
            for key in ("files", "seal"):
                del manifest[key]
            change(folder, manifest)
            publish(folder, target, manifest, overwrite=False)
        return validate(target)

    def with_manifest(self, change: Callable[[dict[str, Any]], object]) -> Verdict:
        """Return the verdict on a copy with other words in its manifest."""
        return self.judged(lambda folder, manifest: change(manifest))


@pytest.fixture(scope="module")
def toy_subject(toy_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with registered(ToyPlugin()):
        yield Subject(toy_artifact, tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module", params=["heads", "detections"])
def centernet(
    request: pytest.FixtureRequest, narrow_forms: Callable[[str], Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Subject:
    """A narrow resdcn_18 whose batch, height and width vary."""
    folder = tmp_path_factory.mktemp(request.param)
    return Subject(Artifact.open(shutil.copytree(narrow_forms(request.param).path, folder / "artifact")), folder)


def test_the_sound_toy_passes(toy_subject):
    assert toy_subject.judged(lambda folder, manifest: None).passed


@pytest.mark.slow
def test_every_fault_of_a_deformable_detector_is_caught(centernet):
    """All faults of one form in one test, so that the conversion is paid for once by any worker."""
    assert centernet.judged(lambda folder, manifest: None).passed
    test = self_test(centernet.artifact.path, variants=[VARIANTS[0]])
    assert [outcome.kind for outcome in test.outcomes if outcome.applies and not outcome.caught] == []
    assert test.faults >= 75
    assert test.passed


@pytest.mark.slow
def test_a_stale_stride_is_caught_wherever_it_stands(centernet):
    def stale(folder: Path, manifest: dict[str, Any]) -> None:
        if manifest["graph"]["form"] == "heads":
            manifest["model"]["decode"]["stride"] = 8
            return
        model = onnx.load(folder / MODEL)
        (scale,) = [
            item
            for item in model.graph.initializer
            if item.data_type == onnx.TensorProto.FLOAT and numpy_helper.to_array(item).tolist() in (4.0, [4.0])
        ]
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 2, scale.name))
        (folder / MODEL).write_bytes(model.SerializeToString())

    verdict = centernet.judged(stale)
    assert not verdict.passed
    assert {check.kind for check in verdict.failures} <= {"decode", "detections", "decoded"}


def swap(table: dict[str, Any], one: str, other: str) -> None:
    table[one], table[other] = table[other], table[one]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda spec: swap(spec, "mean", "std"),
        lambda spec: spec.update(mean=spec["mean"][::-1], std=spec["std"][::-1]),
        lambda spec: spec.update(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        lambda spec: spec.update(resize="keep_res"),
    ],
    ids=["mean and std swapped", "RGB order", "another framework's", "another resize"],
)
def test_another_preprocess_than_the_proved_one_is_caught(centernet, change):
    verdict = centernet.with_manifest(lambda manifest: change(manifest["model"]["preprocess"]))
    assert {check.kind for check in verdict.failures} == {"preprocess"}


def test_a_preprocess_that_changed_in_its_plugin_is_caught(toy_subject, monkeypatch):
    """The manifest is the same, but another version of the plugin scales pixels otherwise."""
    from support.toy import Resize

    original = Resize.__init__

    def newer(self: Resize, spec: Mapping[str, Any]) -> None:
        original(self, spec)
        self.scale *= 1.02

    monkeypatch.setattr(Resize, "__init__", newer)
    verdict = toy_subject.judged(lambda folder, manifest: None)
    assert {check.kind for check in verdict.failures} == {"preprocess"}
    assert verdict.failures[0].figures["rel_l2"] == pytest.approx(0.02, rel=0.05)


def test_a_decode_that_changed_in_its_plugin_is_caught(toy_subject, monkeypatch):
    from support.toy import Softmax

    original = Softmax.__call__
    monkeypatch.setattr(
        Softmax, "__call__", lambda self, outputs, metas: original(self, {"logits": outputs["logits"] * 1.01}, metas)
    )
    verdict = toy_subject.judged(lambda folder, manifest: None)
    assert {check.kind for check in verdict.failures} == {"decode"}
    assert "results[0]" in verdict.failures[0].note
