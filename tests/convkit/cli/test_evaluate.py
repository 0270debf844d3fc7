"""``convkit evaluate``: COCO's figures as a table or JSON, and a code that tells whether engines agree."""

from __future__ import annotations

import json
import shutil

import pytest
from support.blobs import write_coco

from convkit.evaluation import METRICS, Changes, EvaluationReport


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
        "convkit.evaluation.evaluate_artifacts", lambda *args, **kwargs: EvaluationReport(figures, 4, 9, 1.0)
    )
    said = cli("evaluate", blob_artifact.path, *arguments, "--weights", "any.pth")
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


@pytest.fixture
def twin(blob_artifact, tmp_path):
    """Return a copy of the detector in a folder of another name."""
    return shutil.copytree(blob_artifact.path, tmp_path / "twin")


def test_two_artifacts_stand_beside_each_other(cli, blob_artifact, twin, arguments, tmp_path):
    said = cli("evaluate", blob_artifact.path, twin, *arguments, "--draw", tmp_path / "drawn", "--max-drop", "0")
    assert said.code == 0
    assert said.lines[0].split() == ["blobs", "twin", "difference"]
    assert said.lines[1].split()[-1] == "+0.0000"
    assert said.lines[-1] == "no image differs"
    assert list((tmp_path / "drawn").iterdir()) == []


def test_a_drop_beyond_the_limit_exits_4_and_changes_are_said(cli, blob_artifact, twin, arguments, monkeypatch):
    figures = {"blobs": dict.fromkeys(METRICS, 0.5), "twin": dict.fromkeys(METRICS, 0.45)}
    changes = Changes(0.3, 2, {"blobs": 3, "twin": 1}, ())
    report = EvaluationReport(figures, 4, 9, 1.0, changes=changes)
    monkeypatch.setattr("convkit.evaluation.evaluate_artifacts", lambda *args, **kwargs: report)
    for limit, code in (("0.04", 4), ("0.06", 0)):
        said = cli("evaluate", blob_artifact.path, twin, *arguments, "--max-drop", limit)
        assert said.code == code
        assert ("AP falls by 0.0500; --max-drop allows 0.04." in said.err) == bool(code)
        assert said.lines[1].split() == ["AP", "0.5000", "0.4500", "-0.0500"]
        assert said.lines[-1] == "2 images differ: found 3 only by blobs, 1 only by twin (score 0.3 or more)"


def test_figures_of_each_class_and_results_that_are_kept(cli, blob_artifact, arguments, tmp_path):
    said = cli("evaluate", blob_artifact.path, *arguments, "--classes", "--resume", tmp_path / "state")
    assert said.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in said.lines[13:16]}
    assert rows["class"] == ["AP", "AP50", "AP75", "AR"]
    mean = (float(rows["red"][0]) + float(rows["green"][0])) / 2
    assert mean == pytest.approx(float(said.lines[1].split()[1]), abs=1e-4)
    again = cli("evaluate", blob_artifact.path, *arguments, "--resume", tmp_path / "state")
    assert again.lines[13].endswith("4 results kept from before")


def test_the_plot_has_a_bar_a_class(cli, blob_artifact, arguments, tmp_path):
    pytest.importorskip("matplotlib")
    said = cli("evaluate", blob_artifact.path, *arguments, "--plot", tmp_path / "classes.svg")
    assert said.code == 0
    drawn = (tmp_path / "classes.svg").read_text()
    assert ">red<" in drawn
    assert ">green<" in drawn
    assert f"onnxruntime: {float(said.lines[1].split()[1]):.3f}" in drawn


@pytest.mark.parametrize("option", [("--draw", "drawn"), ("--max-drop", "0.1"), ("--score", "0.5")])
def test_what_compares_artifacts_needs_two(cli, blob_artifact, arguments, option):
    said = cli("evaluate", blob_artifact.path, *arguments, *option)
    assert (said.code, said.out) == (2, "")
    assert "second artifact" in said.err


@pytest.mark.parametrize(
    "options",
    [(), ("--coco", "a.json"), ("--voc", "a", "--images", "b"), ("--coco", "a", "--images", "b", "--split", "test")],
)
def test_a_data_set_is_given_by_one_set_of_options(cli, blob_artifact, options):
    said = cli("evaluate", blob_artifact.path, *options)
    assert (said.code, said.out) == (2, "")
    assert "--voc DIR" in said.err
