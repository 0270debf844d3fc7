"""The HTML report: one file that says everything, refers to nothing outside and cannot be broken by a name."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from convkit import convert
from convkit.errors import SettingError
from convkit.reporting import ReportParts, bench_of, layers_of, read_bench, render_report

VOID = {"meta", "img", "br", "input"}


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
                assert (value or "").startswith(("data:image/jpeg;base64,", "#"))
    assert not re.search(r"url\(|@import|https?://", document)


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
    reader = Reader(render_report(manifest, verdict, hostile_parts(hostile)))
    assert reader.open == []
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.text.count("alert('x')") >= 30
    for tag, attributes in reader.tags:
        assert tag != "img" or {*attributes} <= {"src", "alt"}, "a quote in a name must not end an attribute"


def test_pictures_are_embedded_with_their_captions(documents):
    image = np.full((30, 40, 3), (10, 200, 90), np.uint8)
    reader = Reader(render_report(*documents, ReportParts([[("a picture: 2 things", image)]])))
    (picture,) = [attributes for tag, attributes in reader.tags if tag == "img"]
    data = base64.b64decode((picture["src"] or "").partition(",")[2])
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(shown, image, atol=4)
    assert "a picture: 2 things" in reader.text


def test_verdict_and_ladder_stand_first(toy_artifact):
    reader = Reader((toy_artifact.path / "report.html").read_text(encoding="utf-8"))
    words = [text.strip() for text in reader.texts if text.strip()]
    start = words.index("what it rests on") + 1
    ladder = toy_artifact.verdict["ladder"]
    rows = [word for name, rung in ladder.items() for word in (name, rung["status"], rung["summary"])]
    assert words[start : start + len(rows)] == rows
    place = words.index("Proved")
    assert words[place - 1] == "toy toy_1"
    assert words[place + 1] == toy_artifact.manifest["verdict"]["headline"]
    assert place < start
    assert start < words.index("results"), "and all else comes behind"


def test_a_failed_rung_stands_out(documents):
    manifest, verdict = documents
    verdict["ladder"]["ran"]["status"] = "failed"
    assert '<td class="fail">failed</td>' in render_report(manifest, verdict)


def test_reference_and_engine_are_shown_side_by_side(blob_artifact):
    document = (blob_artifact.path / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r'<div class="row">(<figure><img.*?)</div>', document)
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
    monkeypatch.setattr("convkit.conversion._proving.DRAW_SCORE", 0.999)
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


def hostile_parts(text: str) -> ReportParts:
    """Return parts in which every text is this one."""
    node = {"name": text, "operator": text, "module": text, "weights": [text], "kind": "changed"}
    graph = {"nodes": [node, node], "edges": [[0, 1, text]]}
    measured = {"local": 1e-3, "accumulated": 1e-3, "limit": 1e-4}
    layer = {"node": text, "operator": text, "module": text, "dtype": text, "reason": text, **measured}
    protocol = {"machine": {"cpu": text}, "started": text, "threads": text, "order": text, "gpu": [{"name": text}]}
    result = {"backend": text, "device": text, "scope": text, "batch": 1, "unproved": text, "items_per_second": 1.0}
    return ReportParts(
        pictures=[[(text, np.zeros((4, 4, 3), np.uint8))]],
        layers=[layer],
        judged=text,
        graphs=[{"rewrite": text, "before": graph, "after": graph, "places": 1, "left_out": 0}],
        bench={
            "results": [{**result, "latency_ms": {"p50": 1.0, "p90": 2.0}}],
            "protocol": protocol,
        },
        precision={"asked": text, "nodes": {text: 1}, "arithmetic": {text: 1.0}, "reasons": {text: text}},
        sizes={text: 3},
        engines={text: {text: {"status": text, "summary": text}}},
    )


def test_failures_and_infinite_errors_are_shown_as_such(documents):
    manifest, verdict = documents
    verdict["passed"] = False
    verdict["checks"][1].update(passed=False, figures={"max_abs": None, "rel_l2": None}, note="3 values are NaN")
    for stage in verdict["ledger"]:
        stage.update(against_float64=None, against_previous=None, passed=False)
    verdict["ledger"].append({**verdict["ledger"][0], "name": "exact", "against_float64": 0.0, "limit": 0.0})
    reader = Reader(render_report(manifest, verdict))
    assert reader.open == []
    assert "NOT proved" in reader.texts
    assert "FAIL" in reader.texts
    assert "3 values are NaN" in reader.text
    assert ("div", {"class": "headline fail"}) in reader.tags


def test_a_report_without_pictures_says_so(documents):
    assert "Results of this model have no pictures" in Reader(render_report(*documents)).text
    noise = np.random.default_rng(0).integers(0, 255, (340, 480, 3), np.uint8)
    document = render_report(*documents, ReportParts(pictures=[[("noise", noise)] * 40]))
    assert "would take more than 2.5 MB and are left out" in document


def test_pictures_are_made_small_enough_together(documents):
    noise = np.random.default_rng(0).integers(0, 255, (1000, 1400, 3), np.uint8)
    name = "backbone.level5.tree2.tree1.conv2/Conv"
    layer = {"node": name, "operator": "Conv", "module": name, "dtype": "float16", "reason": ""}
    layers = [{**layer, "local": 1e-3, "accumulated": 1e-3, "limit": 1e-2}] * 9000
    document = render_report(*documents, ReportParts(pictures=[[("noise", noise)] * 4], layers=layers))
    assert document.count("<img") == 4
    assert "6600 more nodes are not drawn" in document
    assert len(document.encode()) < 5_000_000


def test_each_node_shows_its_type_its_module_and_its_errors(toy_artifact, documents):
    model = onnx.load(toy_artifact.model)
    names = [node.name for node in model.graph.node]
    errors = {
        "nodes": [
            row(names[0], 1e-6, 1e-5, "float32"),
            row(names[1], 2e-2, 1e-3, "float16"),
            row(names[2], None, 1e-3, "float16"),
        ]
    }
    layers = layers_of(model, {names[0]: "float32", names[3]: "int8"}, errors)
    assert [layer["node"] for layer in layers] == names[:4]
    assert [layer["dtype"] for layer in layers] == ["float32", "float16", "float16", "int8"]
    reader = Reader(render_report(*documents, ReportParts(layers=layers, judged="torch:fp16")))
    assert reader.open == []
    circles = [attributes for tag, attributes in reader.tags if tag == "circle" and attributes["r"] == "3.5"]
    assert [circle["class"] for circle in circles] == ["ok", "fail", "fail"]
    heights = [float(circle["cy"] or 0) for circle in circles]
    assert heights[0] > heights[1] > heights[2], "the larger the error, the higher; one that is not finite at the top"
    modules = [entry.value for entry in model.graph.node[0].metadata_props if entry.key == "convkit.module"]
    assert any(modules[0] in text and "errs 1e-06 by itself" in text for text in reader.texts)
    strip = [
        attributes["class"] for tag, attributes in reader.tags if tag == "rect" and attributes.get("height") == "26"
    ]
    assert strip == ["float32", "float16", "float16", "int8"]
    worst = reader.texts[reader.texts.index("by itself") :]
    assert worst.index(names[2]) < worst.index(names[1]) < worst.index(names[0])


def row(name: str, local: float | None, limit: float, dtype: str) -> dict[str, Any]:
    """Return a node of the document of a bisection."""
    figures = {"rel_l2": local, "max_abs": local}
    return {"node": name, "local": [figures], "accumulated": [figures], "limit": limit, "dtype": dtype}


def test_a_typed_artifact_shows_the_type_of_each_node(documents):
    precision = {
        "asked": "fp16", "nodes": {"float16": 9, "float32": 1}, "arithmetic": {"float16": 0.995, "float32": 0.005},
        "reasons": {"head/TopK": "it decides"},
    }  # fmt: skip
    text = Reader(render_report(*documents, ReportParts(precision=precision))).text
    assert (
        "Asked for fp16: 9 nodes in float16, 1 nodes in float32; arithmetic: 99.5% in float16, 0.5% in float32." in text
    )
    assert "it decides" in text


def test_latency_is_that_of_this_artifact(documents, tmp_path):
    def result(seal: str, p50: float) -> dict[str, Any]:
        return {
            "seal": seal, "backend": "torch", "device": "cuda", "scope": "network", "batch": 8, "unproved": "",
            "latency_ms": {"p50": p50, "p90": 2 * p50}, "items_per_second": 1234.5,
        }  # fmt: skip

    protocol = {
        "machine": {"cpu": "a CPU"}, "started": "2026", "threads": 2, "order": "in turns", "gpu": [{"name": "a GPU"}],
    }  # fmt: skip
    document = {"results": [result("other", 9.0), result("mine", 2.5), result("mine", 5.0)], "protocol": protocol}
    (tmp_path / "bench.json").write_text(json.dumps(document))
    bench = bench_of(read_bench(tmp_path / "bench.json"), "mine", "here")
    reader = Reader(render_report(*documents, ReportParts(bench=bench)))
    assert "torch (cuda)" in reader.texts
    assert "2.5" in reader.texts
    assert "9" not in reader.texts
    bars = [float(attributes["width"] or 0) for tag, attributes in reader.tags if attributes.get("class") == "bar"]
    assert bars == [80.0, 160.0]
    with pytest.raises(SettingError, match="has no result of here"):
        bench_of(document, "third", "here")
    document["results"][0]["latency_ms"]["p50"] = 0.0
    for broken in ([], document, {"results": [{"seal": "mine"}], "protocol": protocol}, {"results": []}):
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(SettingError, match="is not what `convkit bench --json` writes"):
            read_bench(tmp_path / "broken.json")
    with pytest.raises(SettingError, match="No such file"):
        read_bench(tmp_path / "none.json")
