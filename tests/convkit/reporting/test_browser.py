"""A report in a real browser: no request, no error, everything opens, zooms, turns dark and fits a phone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.browser import browser, find_browser

from convkit.reporting import ReportParts, gather_parts, layers_of, render_report

pytestmark = pytest.mark.skipif(not find_browser(), reason="there is no Chromium here")


@pytest.fixture(scope="module")
def file(blob_artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which every section has something."""
    model = onnx.load(blob_artifact.model)
    names = [node.name for node in model.graph.node]
    errors = {
        "nodes": [
            {"node": name, "local": [{"rel_l2": 10.0**-index}], "accumulated": [{"rel_l2": 1e-3}], "limit": 1e-2,
             "dtype": "float16"}
            for index, name in enumerate(names)
        ]
    }  # fmt: skip
    part = {
        "nodes": [
            {"name": name, "operator": "Conv", "module": "a.b", "weights": ["8x3x3x3"], "kind": "changed"}
            for name in ("one", "two")
        ],
        "edges": [[0, 1, "x"]],
    }
    parts = ReportParts(
        pictures=[[("a picture", np.zeros((300, 400, 3), np.uint8))] * 2],
        layers=layers_of(model, {}, errors),
        judged="torch:fp16",
        graphs=[
            {"rewrite": f"rewrite {number}", "before": part, "after": part, "places": 2, "left_out": 1}
            for number in range(3)
        ],
        sizes={"model.onnx": 12345},
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(blob_artifact.manifest, blob_artifact.verdict, parts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(file, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.open(file)
        yield opened


def test_nothing_is_loaded_and_nothing_goes_wrong_while_everything_is_clicked(page, file):
    closed = page.run("document.querySelectorAll('details:not([open])').length")
    assert closed >= 4
    page.run("document.querySelectorAll('details:not([open]) > summary').forEach(each => each.click())")
    assert page.run("document.querySelectorAll('details:not([open])').length") == 0
    assert page.run("document.querySelectorAll('nav a').length") >= 8
    page.run("document.querySelectorAll('nav a, label').forEach(each => each.click())")
    missing = page.run("[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length")
    assert missing == 0
    assert page.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert [request for request in page.requests if not request.startswith("data:")] == [file.as_uri()]
    assert page.console == []


def test_graphs_can_be_zoomed_and_each_on_its_own(page):
    widths = "[...document.querySelectorAll('.canvas svg')].map(each => each.getBoundingClientRect().width)"
    page.run("document.querySelector('#one-1').click()")
    before = page.run(widths)
    page.run("document.querySelector('#two-1').click()")
    after = page.run(widths)
    assert after[:2] == pytest.approx([2 * before[0], 2 * before[1]])
    assert after[2:] == before[2:], "of the other rewrites none has changed"


def test_pointing_at_a_node_names_its_module(page):
    title = page.run("document.querySelector('.strip rect title').textContent")
    assert "module tone" in title
    assert page.run("document.querySelector('.box title').textContent").splitlines()[1] == "module a.b"


def test_it_follows_the_system_to_dark_and_stays_readable(page):
    def luminance(name: str) -> float:
        text = page.run(f"getComputedStyle(document.body).{name}")
        return sum(map(int, text[text.index("(") + 1 : -1].split(",")))

    contrasts = {}
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        contrasts[scheme] = luminance("backgroundColor") - luminance("color")
    assert contrasts["light"] > 400
    assert contrasts["dark"] < -400


def test_it_fits_a_phone(page):
    page.call("Emulation.setDeviceMetricsOverride", width=375, height=700, deviceScaleFactor=2, mobile=True)
    assert page.run("document.scrollingElement.scrollWidth") <= 375
    smallest = page.run("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)")
    assert smallest >= 12
    page.call("Emulation.clearDeviceMetricsOverride")


def test_it_says_everything_without_javascript(page, file, blob_artifact):
    text = page.run("document.body.textContent")
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(file)
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert page.run("document.body.textContent") == text
    assert blob_artifact.manifest["verdict"]["headline"] in page.run("document.body.innerText")
    assert page.run("document.querySelector('.canvas svg').getBoundingClientRect().width") > 50


def test_a_report_of_an_artifact_opens_too(page, blobs, blob_artifact, tmp_path):
    parts = gather_parts(blob_artifact, onnx.load(blob_artifact.model))
    assert [[caption.partition(":")[0].rpartition(", ")[2] for caption, _ in row] for row in parts.pictures] == [
        ["PyTorch float64", "onnxruntime"]
    ] * 2
    whole = tmp_path / "whole.html"
    whole.write_text(render_report(blob_artifact.manifest, blob_artifact.verdict, parts), encoding="utf-8")
    page.open(whole)
    assert page.run("document.images.length") == 4
    assert page.console == []
