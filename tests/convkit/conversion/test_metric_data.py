"""The average precision of a typed graph beside float32's: measured on named data, recorded, and limited."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.blobs import BlobAdapter, BlobPlugin, write_coco

from convkit import convert
from convkit.conversion import plan_conversion
from convkit.errors import ConversionError, ConvkitError, ImageError, ProofFailedError, SettingError
from convkit.evaluation import evaluate_artifact

SHAPE = ["batch=1", "height=64", "width=96"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "set", 4, categories={"red": 3, "green": 7}).parent


def test_the_metric_is_that_of_the_artifact_and_is_recorded(
    blobs: BlobPlugin, blob_weights_file: Path, tmp_path: Path, data: Path
) -> None:
    settings = {"precision": "fp16", "samples": 2, "shape": SHAPE}
    done = convert("blobs", weights=blob_weights_file, output=tmp_path / "blobs", metric_data=data, **settings)
    found = done.artifact.manifest["precision"]["metric"]
    alone = evaluate_artifact(done.artifact.path, data / "annotations.json", data / "images")
    assert found["fp16"] == alone.figures["torch"]["AP"]
    assert found["fp16"] > 0.5
    assert (found["data"], found["images"], found["limit"]) == ("set", 4, 0.002)
    assert found["drop"] == found["fp32"] - found["fp16"]
    assert found["annotations_sha256"] == hashlib.sha256((data / "annotations.json").read_bytes()).hexdigest()
    (check,) = [check for check in done.verdict.checks if check.kind == "metric"]
    assert check.case == "4 images of set"
    assert "in fp16 on 4 images of set, 0.002 less is allowed" in done.ladder["typed"].summary
    assert not [path.name for path in done.artifact.path.rglob(".*")]


def test_a_drop_above_what_the_adapter_allows_fails_the_rung(
    blobs: BlobPlugin, blob_weights_file: Path, tmp_path: Path
) -> None:
    """True boxes that are a few pixels off: float16 moves results across a threshold of IoU, and AP with them."""
    data = write_coco(tmp_path / "set", 4, categories={"red": 3, "green": 7}, jitter=3).parent
    with pytest.raises(ProofFailedError, match=r"AP 0.2\d+ in fp32, 0.2\d+ in fp16 on 4 images of set; 0.002 less"):
        convert(
            "blobs", weights=blob_weights_file, output=tmp_path / "blobs", metric_data=data, precision="fp16",
            samples=2, shape=SHAPE,
        )  # fmt: skip
    document = json.loads((tmp_path / "blobs.rejected" / "proof" / "verdict.json").read_text())
    assert [check["kind"] for check in document["checks"] if not check["passed"]] == ["metric"]
    assert document["ladder"]["typed"]["status"] == "failed"


def test_auto_has_to_meet_the_metric(blobs: BlobPlugin, blob_weights_file: Path, tmp_path: Path, data: Path) -> None:
    settings = {"precision": "auto", "samples": 2, "shape": SHAPE}
    done = convert("blobs", weights=blob_weights_file, output=tmp_path / "blobs", metric_data=data, **settings)
    found = done.artifact.manifest["precision"]
    (trial,) = found["search"]["trials"]
    assert (trial["accepted"], found["kept"]) == (True, [])
    assert f"AP {found['metric']['fp32']:.4f} in fp32, {found['metric']['fp16']:.4f} in fp16" in trial["figures"]
    assert trial["figures"].endswith("0.002 less is allowed")
    assert "and the task metric" in (done.artifact.path / "proof" / "kept.txt").read_text()
    assert not [path.name for path in done.artifact.path.rglob(".*")]
    # Where the metric falls too far, results within their tolerance on the samples are no excuse: both layers that this
    # network has would have to stay float32.
    hard = write_coco(tmp_path / "hard", 4, categories={"red": 3, "green": 7}, jitter=3).parent
    with pytest.raises(ConversionError, match="100% of the arithmetic stayed float32"):
        convert("blobs", weights=blob_weights_file, output=tmp_path / "none", metric_data=hard, **settings)


def lost_image(data: Path) -> Path:
    next((data / "images").glob("*.png")).unlink()
    return data


@pytest.mark.parametrize(
    ("spoil", "settings", "kind", "message"),
    [
        (lambda data: data / "nowhere", {"precision": "fp16"}, SettingError, "There is no file"),
        (lost_image, {"precision": "fp16"}, ImageError, "is missing"),
        (lambda data: data, {}, SettingError, "float32 was asked for"),
    ],
)
def test_data_that_will_not_do_is_refused_before_the_work(
    blobs: BlobPlugin, blob_weights_file: Path, tmp_path: Path, data: Path, spoil, settings: dict[str, str],
    kind: type[ConvkitError], message: str,
) -> None:  # fmt: skip
    steps: list[str] = []
    with pytest.raises(kind, match=message) as caught:
        convert(
            "blobs", weights=blob_weights_file, output=tmp_path / "blobs", metric_data=spoil(data), samples=1,
            progress=lambda step, *_: steps.append(step), **settings,
        )  # fmt: skip
    assert caught.value.hint
    assert not any("float64" in step for step in steps)
    assert not (tmp_path / "blobs").exists()


def test_a_precision_without_a_declared_drop_is_refused(
    blobs: BlobPlugin, blob_weights_file: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(BlobAdapter, "metric_drop", {})
    with pytest.raises(SettingError, match="does not say by how much AP may fall in fp16") as caught:
        convert("blobs", weights=blob_weights_file, output=tmp_path / "b", metric_data=data, precision="fp16")
    assert "Adapter.metric_drop" in caught.value.hint
    plan = plan_conversion("blobs", weights=blob_weights_file, settings={"metric_data": data, "precision": "fp16"})
    assert {item["name"]: item["value"] for item in plan.settings.to_json()}["metric_data"] == "set"
