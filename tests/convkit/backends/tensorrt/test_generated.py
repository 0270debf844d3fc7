"""Random graphs, parsed by NVIDIA's parser and replayed: every one computes what ONNX Runtime computes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx_bindings")
pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[4] / "benchmarks" / "tensorrt_generated.py"


def test_three_hundred_graphs_without_an_unexplained_disagreement():
    report = runpy.run_path(str(SCRIPT))["compare"](first=10_000, count=360)
    assert report.compared >= 300
    assert report.unexplained == {}
    assert report.problems == {}
    assert len(report.operators) >= 90


def test_graphs_in_float16():
    report = runpy.run_path(str(SCRIPT))["compare"](first=20_000, count=100, half=True)
    assert report.compared >= 70
    assert report.unexplained == {}
    assert report.problems == {}
