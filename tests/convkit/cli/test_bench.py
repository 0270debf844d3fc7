"""``convkit bench``: engines in processes of their own, the JSON, the table, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convkit.benchmarking import Benchmark, BenchSettings, Candidate, Cell, Memory, NotRun, Run, protocol

QUICK = ("--seconds", 0, "--warm-up", 1, "--quiet")


def test_an_engine_is_timed_at_each_batch_and_scope(cli, toy_artifact, tmp_path):
    copy = Path(shutil.copytree(toy_artifact.path, tmp_path / "toy"))
    shutil.rmtree(copy / "proof" / "backends", ignore_errors=True)  # what other tests proved
    said = cli("bench", copy, "--backend", "onnxruntime", "--backend", "torch", "--batch", 1, "--batch", 3,
               *QUICK, "--threads", 1, "--json")  # fmt: skip
    assert said.code == 0, said.err
    assert said.err == ""
    found = said.json
    assert [(each["scope"], each["batch"], each["backend"]) for each in found["results"]] == [
        (scope, batch, "onnxruntime") for scope in ("network", "pipeline") for batch in (1, 3)
    ]
    for each in found["results"]:
        assert 0 < each["latency_ms"]["min"] <= each["latency_ms"]["p50"] <= each["latency_ms"]["p99"]
        assert each["items_per_second"] > 0
        assert each["memory"]["loaded_bytes"] > 20e6, "Python and ONNX Runtime alone take that"
        assert each["memory"]["peak_bytes"] >= 20e6
        assert (each["runs"], each["timer"], each["unproved"]) == (5, "wall clock", "")
    reasons = {(each["backend"], each["device"]): each["reason"] for each in found["not_run"]}
    assert set(reasons) == {("onnxruntime", "cuda"), ("torch", "cpu"), ("torch", "cuda")}
    assert reasons["torch", "cpu"].endswith("--unproved runs it as it is")
    protocol = found["protocol"]
    assert protocol["versions"]["onnxruntime"]
    assert protocol["threads"] == len(protocol["pinned_to_cores"]) == 1


def test_artifacts_are_compared_in_one_table_below_the_protocol(cli, monkeypatch):
    """What was measured is given here: the engines themselves ran in the test above."""
    names = "first", "second [b]"
    seconds, run = (0.001, 0.002, 0.003, 0.004, 0.0405), Run(0.5, (0.25,), "wall clock")
    cells = tuple(
        Cell(Candidate(name, "fp32", "onnxruntime", "cpu"), "network", 2, seconds, run, Memory(10**7, 2 * 10**7))
        for name in names
    )
    missing = NotRun(Candidate("first", "fp32", "torch", "cuda"), "there is no GPU")
    facts = protocol(BenchSettings(), (0,), 1) | {"gpu": [{"name": "a GPU", "clocks.sm": "1980 MHz"}], "gpu_after": []}
    monkeypatch.setattr(
        "convkit.benchmarking.bench", lambda paths, settings, progress: Benchmark(cells, (missing,), facts)
    )
    said = cli("bench", "first", "second [b]", "--quiet")
    assert said.code == 0
    rows = [line.split() for line in said.lines if " network " in line]
    assert [" ".join(row[: -len(rows[0]) + 1]) for row in rows] == ["first", "second [b]"]
    assert rows[0][1:] == [
        "onnxruntime", "(cpu)", "network", "2", "3.000", "25.9", "39.0", "5", "198", "250.0", "0.50", "20", "MB"
    ]  # fmt: skip
    assert said.lines[-1].split() == ["first", "torch", "(cuda)", "there", "is", "no", "GPU"]
    above = said.out[: said.out.index("items/s")]
    for fact in ("python ", "onnxruntime 1", "1 threads, bound to cores 0", "3 runs to warm up", "clocks.sm 1980 MHz"):
        assert fact in above


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--backend", "tensorrt-rtx"), 5, "No engine runs here"),
        (("--backend", "tensorrt-rtx"), 5, "tensorrt-rtx (cuda): the artifact contains no such engine"),
        (("--device", "cuda:7"), 5, "'cuda:7'"),
        (("--batch", 5), 2, "A batch of 5 was asked for, and the artifacts take 1 to 4"),
        (("--scope", "pipline"), 2, "Did you mean 'pipeline'?"),
        (("--plot", "b.pdf"), 2, "neither an .svg nor a .png"),
        (("--runs", 1), 2, "--runs is 1"),
        (("--threads", 100000), 2, "--threads is 100000, and this process may use"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(cli, toy_artifact, words, code, text):
    said = cli("bench", toy_artifact.path, *words)
    assert said.code == code
    assert text in said.err
    assert said.out == ""


def test_artifacts_of_different_inputs_are_refused(cli, toy_artifact, blob_artifact):
    said = cli("bench", toy_artifact.path, blob_artifact.path)
    assert said.code == 2
    assert "times of different inputs cannot be compared" in said.err


def test_no_artifact_is_refused(cli, tmp_path):
    assert cli("bench", tmp_path).code == 1
