"""The HTML report: one file that says everything, refers to nothing outside and cannot be broken by a name."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import pytest

from convkit import convert
from convkit.artifact import render_report

VOID = {"meta", "img", "br", "line", "rect", "path"}


class Reader(HTMLParser):
    """Collect text, tags and attributes, and check that every tag is closed in its turn."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture
def documents(toy_artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads(json.dumps(toy_artifact.manifest)), toy_artifact.verdict


def test_the_report_of_an_artifact_is_well_formed_and_says_what_was_proved(toy_artifact):
    reader = Reader((toy_artifact.path / "report.html").read_text(encoding="utf-8"))
    assert reader.open == []
    assert toy_artifact.manifest["verdict"]["headline"] in reader.text
    for word in (
        "toy toy_1",
        "toy.tuple",
        "graph.fold-constants",
        toy_artifact.manifest["weights"]["sha256"],
        "logits",
    ):
        assert word in reader.text
    for setting in toy_artifact.manifest["settings"]:
        assert setting["name"] in reader.texts


def test_it_needs_nothing_but_itself_and_runs_nothing(toy_artifact):
    document = (toy_artifact.path / "report.html").read_text(encoding="utf-8")
    reader = Reader(document)
    assert {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "form"} == set()
    for _, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "data", "action"):
                assert (value or "").startswith("data:image/")
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", document)


def test_names_and_notes_are_text_and_never_markup(documents):
    manifest, verdict = documents
    hostile = "<script>alert('x')</script>&\""
    manifest["model"]["variant"] = manifest["weights"]["file"] = hostile
    manifest["model"]["facts"] = {hostile: hostile}
    manifest["settings"][0]["value"] = hostile
    verdict["notes"] = [hostile]
    verdict["inputs"] = verdict["headline"] = hostile
    verdict["checks"][0]["note"] = hostile
    verdict["ledger"][0]["name"] = hostile
    image = np.zeros((4, 4, 3), np.uint8)
    reader = Reader(render_report(manifest, verdict, [[(hostile, image)]]))
    assert reader.open == []
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.text.count("alert('x')") >= 8
    for tag, attributes in reader.tags:
        assert tag != "img" or {*attributes} <= {"src", "alt"}, "a quote in a name must not end an attribute"


def test_pictures_are_embedded_with_their_captions(documents):
    image = np.full((30, 40, 3), (10, 200, 90), np.uint8)
    reader = Reader(render_report(*documents, [[("a picture: 2 things", image)]]))
    (picture,) = [attributes for tag, attributes in reader.tags if tag == "img"]
    data = base64.b64decode((picture["src"] or "").partition(",")[2])
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(shown, image, atol=4)
    assert "a picture: 2 things" in reader.text


def test_the_ladder_stands_first(toy_artifact):
    reader = Reader((toy_artifact.path / "report.html").read_text(encoding="utf-8"))
    words = [text.strip() for text in reader.texts if text.strip()]
    start = words.index("what it rests on") + 1
    ladder = toy_artifact.verdict["ladder"]
    rows = [word for name, rung in ladder.items() for word in (name, rung["status"], rung["summary"])]
    assert words[start : start + len(rows)] == rows
    assert words.index(toy_artifact.manifest["verdict"]["headline"]) > start


def test_a_failed_rung_stands_out(documents):
    manifest, verdict = documents
    verdict["ladder"]["ran"]["status"] = "failed"
    assert '<td class="fail">failed</td>' in render_report(manifest, verdict)


def test_reference_and_engine_are_shown_side_by_side(blob_artifact):
    document = (blob_artifact.path / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r'<div class="row">(.*?)</div>', document)
    assert len(rows) == 1, "as many as the best batch has"
    for row, results in zip(rows, stored_results(blob_artifact), strict=False):
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", row)
        assert [caption.split(", ")[1].partition(":")[0] for caption in captions] == ["PyTorch float64", "onnxruntime"]
        assert {caption.partition(": ")[2].split()[0] for caption in captions} == {str(len(results["detections"]))}


def stored_results(artifact) -> list[Any]:
    """Return the stored results in the default size of the rectangle detector."""
    index = json.loads((artifact.path / "proof" / "samples.json").read_text())
    (entry,) = [entry for entry in index["sizes"] if entry["sizes"] == {"height": 64, "width": 96}]
    return entry["results"]


def test_results_below_the_score_of_drawings_are_left_out(blobs, blob_weights_file, tmp_path, monkeypatch):
    """Else up to a hundred boxes of score 0.00 cover the picture."""
    monkeypatch.setattr("convkit.conversion._stages.DRAW_SCORE", 0.999)
    artifact = convert(
        "blobs", weights=blob_weights_file, output=tmp_path / "a", samples=1, shape=["height=64", "width=96", "batch=1"]
    ).artifact
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", (artifact.path / "report.html").read_text())
    assert [caption.partition(": ")[2] for caption in captions] == ["0 detections"] * 2
    assert stored_results(artifact)[0]["detections"]


def test_the_score_of_drawings_is_that_of_run():
    from convkit.cli.run import DRAW_SCORE as OF_RUN
    from convkit.results import DRAW_SCORE

    assert OF_RUN == DRAW_SCORE


def test_failures_and_infinite_errors_are_shown_as_such(documents):
    manifest, verdict = documents
    verdict["passed"] = False
    verdict["checks"][1].update(passed=False, figures={"max_abs": None, "rel_l2": None}, note="3 values are NaN")
    for stage in verdict["ledger"]:
        stage.update(against_float64=None, against_previous=None, passed=False)
    verdict["ledger"].append({**verdict["ledger"][0], "name": "exact", "against_float64": 0.0, "limit": 0.0})
    reader = Reader(render_report(manifest, verdict))
    assert reader.open == []
    assert "FAIL" in reader.texts
    assert "3 values are NaN" in reader.text
    assert ("p", {"class": "headline fail"}) in reader.tags
