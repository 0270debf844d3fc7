"""Figures of a benchmark against the standard library's, its JSON, and its picture."""

from __future__ import annotations

import importlib.util
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from convkit.benchmarking import Benchmark, Candidate, Cell, NotRun, check_plot, write_plot
from convkit.benchmarking._result import Memory, Run
from convkit.errors import EnvironmentProblem, OutputError, SettingError

ONE = Candidate("folder/<b>net", "fp16", "torch", "cuda")
SECONDS = (0.004, 0.001, 0.0085, 0.002, 0.003, 0.0011, 0.0072)
PROTOCOL = {"machine": {"cpu": "a processor"}, "threads": 2, "started": "2026-01-02T03:04:05+00:00"}


def cell(batch: int, scope: str = "network") -> Cell:
    return Cell(ONE, scope, batch, SECONDS, Run(0.5, (0.25, 0.125), "CUDA events", "never proved"), Memory(10, 20, 30))


def test_percentiles_are_the_standard_librarys():
    cuts = statistics.quantiles([1e3 * value for value in SECONDS], n=100, method="inclusive")
    latency = cell(4).latency
    assert [latency[f"p{q}"] for q in (50, 90, 99)] == pytest.approx([cuts[49], cuts[89], cuts[98]])
    assert latency["mean"] == pytest.approx(1e3 * statistics.fmean(SECONDS))
    assert (latency["min"], latency["max"]) == (1.0, 8.5)


def test_json_has_the_latency_of_each_artifact_engine_and_batch():
    found = Benchmark(
        (cell(1), cell(4)), (NotRun(ONE, "no GPU"), NotRun(ONE, "memory", "network", 8)), PROTOCOL
    ).to_json()
    first, second = found["results"]
    assert (first["artifact"], first["backend"], first["device"], first["precision"]) == (
        "folder/<b>net", "torch", "cuda", "fp16",
    )  # fmt: skip
    assert first["latency_ms"]["p50"] == 3.0
    assert second["items_per_second"] == pytest.approx(4 * 7 / sum(SECONDS), rel=1e-4)
    assert first["warm_up"] == {"load_s": 0.5, "first_ms": 250.0, "runs": 2, "total_ms": 375.0}
    assert first["memory"]["device_bytes"] == 30
    assert first["unproved"] == "never proved"
    assert ["batch" in each for each in found["not_run"]] == [False, True]


def test_a_plot_shows_every_engine_and_scope(tmp_path):
    pytest.importorskip("matplotlib")
    found = Benchmark((cell(1), cell(4), cell(1, "pipeline"), cell(4, "pipeline")), (), PROTOCOL)
    write_plot(found, tmp_path / "new" / "b.svg")
    texts = [node.text for node in ET.parse(tmp_path / "new" / "b.svg").iter() if node.text]
    for scope in ("network", "pipeline"):
        assert any(text.strip() == f"<b>net, torch (cuda), {scope}" for text in texts)
    write_plot(found, tmp_path / "b.PNG")
    assert (tmp_path / "b.PNG").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write .*file/b\.svg"):
        write_plot(found, tmp_path / "file" / "b.svg")


def test_what_cannot_be_plotted_is_refused_before_the_work(monkeypatch):
    with pytest.raises(SettingError, match=r"a\.pdf is neither an \.svg nor a \.png"):
        check_plot(Path("a.pdf"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem) as caught:
        check_plot(Path("a.svg"))
    assert "convkit[report]" in caught.value.hint
