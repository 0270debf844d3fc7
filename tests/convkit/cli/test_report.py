"""``convkit report`` and ``convkit diff --html``: what they write, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def bench_file(toy_artifact, tmp_path):
    result = {
        "seal": toy_artifact.manifest["seal"], "backend": "torch", "device": "cuda", "scope": "network", "batch": 8,
        "latency_ms": {"p50": 1.25, "p90": 2.5}, "items_per_second": 6400.0, "unproved": "",
    }  # fmt: skip
    protocol = {"machine": {"cpu": "a CPU"}, "started": "2026", "threads": 2, "order": "in turns", "gpu": []}
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"results": [result], "protocol": protocol}))
    return file


def test_a_report_gathers_what_is_known(cli, toy_artifact, bench_file):
    said = cli("report", toy_artifact.path, "--errors", "--samples", 1, "--bench", bench_file)
    assert (said.code, said.out) == (0, "toy.html\n"), said.err
    text = Path("toy.html").read_text(encoding="utf-8")
    for word in (
        "Errors are those of torch:fp16 against float64.",
        "1.25",
        "torch (cuda)",
        "PyTorch float64",
        "module body",
    ):
        assert word in text
    assert Path("toy.html").stat().st_mode & 0o777 == 0o644


def test_two_artifacts_are_shown_side_by_side(cli, toy_artifact, blob_artifact, bench_file):
    other = Path(shutil.copytree(toy_artifact.path, "other"))
    said = cli("diff", toy_artifact.path, other, "--html", "d.html")
    assert said.code == 0, said.err
    text = Path("d.html").read_text(encoding="utf-8")
    assert "they differ in nothing but names" in text
    assert text.count("<img") == 4
    assert text.count("Proved") == 2
    said = cli("diff", toy_artifact.path, blob_artifact.path, "--html", "d.html")
    assert said.code == 0, said.err
    text = Path("d.html").read_text(encoding="utf-8")
    assert "<img" in text, "each draws what it finds in the samples of the first"
    assert "not explained by a rewrite" in text
    said = cli("diff", toy_artifact.path, other / "model.onnx", "--html", "d.html", "--bench", bench_file)
    assert said.code == 0, said.err
    text = Path("d.html").read_text(encoding="utf-8")
    assert "Results are drawn of two artifacts." in text
    assert "A bare ONNX file, which carries no proof." in text
    assert "1.25" in text


def test_what_cannot_be_reported_is_refused(cli, toy_artifact, blob_artifact, bench_file, tmp_path):
    no_bench = toy_artifact.path / "manifest.json"
    for words, code, text in (
        ((toy_artifact.path / "model.onnx",), 1, "is no artifact"),
        ((toy_artifact.path, "-o", toy_artifact.path / "report.html"), 1, "whose files are sealed"),
        ((blob_artifact.path, "--bench", bench_file), 2, "The benchmark has no result of"),
        ((toy_artifact.path, "--bench", no_bench), 2, "is not what `convkit bench --json` writes"),
        ((toy_artifact.path, "-o", bench_file / "r.html"), 1, "Cannot write"),
    ):
        said = cli("report", *words)
        assert said.code == code, said.err
        assert text in said.err
        assert said.out == ""
    said = cli("diff", toy_artifact.path, blob_artifact.path, "--html", blob_artifact.path / "d.html")
    assert said.code == 1
    assert "whose files are sealed" in said.err
