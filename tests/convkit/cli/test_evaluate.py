"""``convkit evaluate``: COCO's figures as a table or JSON, and a code that tells whether engines agree."""

from __future__ import annotations

import json

import pytest
from support.blobs import write_coco

from convkit.evaluation import METRICS, EvaluationReport


@pytest.fixture
def arguments(tmp_path):
    """Write a small data set and return the flags that name it."""
    path = write_coco(tmp_path / "coco", 4, categories={"red": 1, "green": 2}, jitter=3)
    return ["--coco", path, "--images", path.parent / "images"]


def test_the_table_has_a_row_a_figure(cli, blob_artifact, arguments):
    said = cli("evaluate", blob_artifact.path, *arguments)
    assert said.code == 0
    assert said.lines[0].split() == ["onnxruntime"]
    rows = {line.rsplit(maxsplit=1)[0].strip(): line.rsplit(maxsplit=1)[1] for line in said.lines[1:13]}
    assert list(rows) == list(METRICS)
    assert 0 < float(rows["AP"]) < float(rows["AP50"]) <= 1
    assert rows["AP large"] == "-"
    assert said.lines[13].startswith("4 images, ")
    assert "running images" in said.err


def test_json_and_quiet(cli, blob_artifact, arguments):
    said = cli("evaluate", blob_artifact.path, *arguments, "--json", "-q", "--limit", "2")
    assert (said.code, said.err) == (0, "")
    assert said.json["images"] == 2
    assert set(said.json["figures"]["onnxruntime"]) == set(METRICS)


def test_with_weights_pytorch_stands_beside(cli, blob_artifact, blob_weights_file, arguments):
    said = cli("evaluate", blob_artifact.path, *arguments, "--weights", blob_weights_file, "--json")
    assert said.code == 0
    assert set(said.json["figures"]) == {"onnxruntime", "pytorch"}
    assert said.json["agrees"] is True


def test_engines_that_disagree_exit_4(cli, blob_artifact, arguments, monkeypatch):
    figures = {"onnxruntime": dict.fromkeys(METRICS, 0.5), "pytorch": dict.fromkeys(METRICS, 0.6)}
    monkeypatch.setattr(
        "convkit.evaluation.evaluate_artifact", lambda *args, **kwargs: EvaluationReport(figures, 4, 9, 1.0)
    )
    said = cli("evaluate", blob_artifact.path, *arguments)
    assert said.code == 4
    assert said.lines[1].split() == ["AP", "0.5000", "0.6000"]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--coco": "nowhere.json"}, 2, "nowhere.json"),
        ({"--images": "nowhere"}, 1, "is missing"),
        ({"--coco": "empty.json"}, 2, "not a COCO annotation file"),
        ({"--weights": "empty.json"}, 2, "not the checkpoint"),
    ],
)
def test_what_cannot_be_evaluated_is_one_error(cli, blob_artifact, arguments, tmp_path, change, code, message):
    (tmp_path / "empty.json").write_text(json.dumps({}))
    table = dict(zip(arguments[::2], arguments[1::2], strict=True)) | change
    said = cli("evaluate", blob_artifact.path, *[word for pair in table.items() for word in pair])
    assert (said.code, said.out) == (code, "")
    assert message in said.err
