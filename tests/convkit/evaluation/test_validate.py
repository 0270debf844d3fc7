"""validate(): an artifact proved again from nothing but itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from convkit import validate
from convkit.artifact import MODEL, VERDICT, publish, staging
from convkit.errors import ArtifactError, ConversionError, IntegrityError, SettingError


def test_an_artifact_is_proved_again_with_more_checks_than_a_conversion_makes(toy, toy_artifact):
    verdict = validate(toy_artifact)
    assert verdict.passed
    assert verdict.reference == "stored PyTorch float64 results"
    assert (verdict.backend, verdict.device) == ("onnxruntime", "cpu")
    recorded = {(c["kind"], c["case"], c["output"]) for c in toy_artifact.verdict["checks"]}
    found = {(check.kind, check.case, check.output) for check in verdict.checks}
    assert recorded <= found
    assert {kind for kind, _, _ in found - recorded} == {"preprocess", "decode"}
    assert verdict.baselines == toy_artifact.verdict["baselines"]


def test_it_works_on_a_copy_elsewhere_and_by_text(toy, toy_artifact, tmp_path):
    assert validate(str(shutil.copytree(toy_artifact.path, tmp_path / "copy"))).passed


def test_neither_checkpoint_nor_adapter_is_used(toy, toy_artifact, monkeypatch):
    from support.toy import ToyAdapter

    def refuse(self, request):
        raise AssertionError("the checkpoint must not be loaded")

    monkeypatch.setattr(ToyAdapter, "load", refuse)
    assert validate(toy_artifact).passed


def test_the_steps_are_announced(toy, toy_artifact):
    steps: list[str] = []
    validate(toy_artifact, progress=lambda step, done=0, total=0: steps.append(step))
    assert steps[0] == "checking hashes"
    assert list(dict.fromkeys(steps))[-2:] == ["replaying preprocess and decode", "running the pipeline"]


@pytest.mark.parametrize("name", [MODEL, VERDICT, "proof/samples.npz", "proof/samples.json", "report.html"])
def test_a_changed_file_is_refused_before_anything_is_run(toy, toy_artifact, tmp_path, name):
    copy = Path(shutil.copytree(toy_artifact.path, tmp_path / "copy"))
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=name):
        validate(copy)


def test_what_is_no_artifact_is_refused(toy, tmp_path):
    with pytest.raises(ArtifactError):
        validate(tmp_path / "nothing")


def test_an_unknown_backend_is_refused(toy, toy_artifact):
    with pytest.raises(SettingError, match="'tensort'"):
        validate(toy_artifact, backend="tensort")


def test_without_the_plugin_of_its_adapter_it_says_so(toy_artifact):
    with pytest.raises(ConversionError, match=r"'toy\.resize'") as caught:
        validate(toy_artifact)
    assert "plugin" in caught.value.hint


def test_a_verdict_with_infinite_baselines_can_be_validated_and_never_passes(toy, toy_artifact, tmp_path):
    """JSON has no infinity: where PyTorch overflowed the recorded baseline is null."""
    target = tmp_path / "overflow.rejected"
    with staging(target) as folder:
        shutil.copytree(toy_artifact.path, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        verdict = json.loads((folder / VERDICT).read_text())
        verdict["baselines"]["logits"].update(max_abs=None, rel_l2=None)
        (folder / VERDICT).write_text(json.dumps(verdict))
        manifest = {key: value for key, value in toy_artifact.manifest.items() if key not in ("files", "seal")}
        publish(folder, target, manifest, overwrite=False)
    again = validate(target)
    assert not again.passed
    assert {check.output for check in again.failures} == {"logits"}
    json.dumps(again.to_json(), allow_nan=False)


def test_an_engine_is_judged_by_what_its_own_precision_costs(toy, toy_artifact, tmp_path, monkeypatch):
    """What runs in 16 bits is compared with the baselines of its rung *typed*; the artifact keeps those of float32."""
    pytest.importorskip("tensorrt_rtx_bindings")
    from convkit.backends import backend_named, open_session
    from convkit.conversion import build_engine
    from convkit.evaluation import _validate

    copy = shutil.copytree(toy_artifact.path, tmp_path / "copy")
    graph = build_engine(copy, "tensorrt-rtx", targets=["sm86"], precision="fp16").folder / "model.onnx"
    backend = type(backend_named("tensorrt-rtx"))
    monkeypatch.setattr(backend, "problem", lambda self, device: "")
    monkeypatch.setattr(backend, "machine", lambda self, device: {"version": "1", "compute_capability": "8.6"})
    monkeypatch.setattr(_validate, "open_artifact", lambda *args, **more: open_session("torch", graph))
    verdict = validate(copy, backend="tensorrt-rtx")
    assert verdict.passed, verdict.headline()
    assert verdict.baselines["logits"]["ulp"] == 2.0**-10
    assert any(check.kind == "engines" for check in verdict.checks), "compared with ONNX Runtime as well"
    monkeypatch.setattr("convkit.proof._validate._baselines", lambda artifact, backend, recorded: recorded.baselines)
    assert not validate(copy, backend="tensorrt-rtx").passed
