"""The verdict as a table: one row an output, the worst first seen, and every failure on its own."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from convkit import Verdict
from convkit.cli._verdict import print_verdict
from convkit.proof import Check, Stage


def check(output: str = "hm", case: str = "opt (batch 1)", passed: bool = True, **fields: Any) -> Check:
    figures = fields.pop("figures", {"max_abs": 1e-6, "rel_l2": 2e-7})
    limits = fields.pop("limits", {"max_abs": 4e-6, "rel_l2": 4e-7})
    return Check(fields.pop("kind", "values"), case, output, passed, figures, limits, fields.pop("note", ""))


def shown(*checks: Check, verbose: bool = False, **fields: Any) -> list[str]:
    stream = io.StringIO()
    verdict = Verdict("onnxruntime", "cpu", inputs="8 images", checks=list(checks), **fields)
    print_verdict(verdict, Console(file=stream, width=160, highlight=False), verbose=verbose)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_shapes_of_one_output_share_a_row_with_the_figure_nearest_its_limit():
    lines = shown(
        check(case="min"), check(case="max", figures={"max_abs": 3e-6, "rel_l2": 1e-8}), check("wh", case="min")
    )
    rows = [line for line in lines if line.startswith(("hm", "wh"))]
    assert [row.split() for row in rows] == [
        ["hm", "values", "2", "max", "abs", "3e-06", "4e-06", "ok"],
        ["wh", "values", "1", "rel", "L2", "2e-07", "4e-07", "ok"],
    ]
    assert lines[-1] == "proved: 3 checks passed on onnxruntime (cpu); reference PyTorch float64; 8 images"


def test_a_failure_stands_on_its_own_with_its_case_and_its_note():
    lines = shown(
        check(case="min"),
        check(case="max", passed=False, figures={"max_abs": 1.0, "rel_l2": 0.5}, note="worst at [0, 1]"),
    )
    rows = [line for line in lines if line.startswith("hm")]
    assert len(rows) == 2
    assert "FAIL" in rows[1]
    assert "max" in rows[1].split()
    assert any(line.strip() == "worst at [0, 1]" for line in lines)
    assert lines[-1].startswith("NOT proved: 1 of 2 checks failed")


def test_a_note_that_the_row_shows_already_is_not_repeated():
    figures, limits = {"unexplained": 2.0, "max_box": 1.0}, {"unexplained": 0.0, "max_box": 0.01}
    lines = shown(check(passed=False, figures=figures, limits=limits, note="0 of 2 matched"))
    assert sum("0 of 2 matched" in line for line in lines) == 1


def test_infinite_and_missing_figures_can_be_shown():
    for value in (math.inf, None):
        lines = shown(check(passed=False, figures={"max_abs": value, "rel_l2": value}, note="3 values are NaN"))
        assert any("inf" in line for line in lines if line.startswith("hm"))


def test_decoded_results_tell_matches_pixels_and_scores():
    decoded = check(
        "decoded results",
        kind="decoded",
        figures={"unexplained": 0.0, "max_box": 0.0012, "max_score": 2e-6},
        limits={"unexplained": 0.0, "max_box": 0.01, "max_score": 1e-4},
        note="99 of 100 matched, 2 ties",
    )
    (row,) = [line for line in shown(decoded) if line.startswith("decoded results")]
    assert "99 of 100 matched, 2 ties; 0.0012 px, score 2e-06" in row
    assert "0.01 px, score 0.0001" in row


@pytest.mark.parametrize(
    ("figures", "shown_as"),
    [
        ({"unexplained": 0.0, "max_score": 2e-6}, "3 of 3 matched; score 2e-06"),
        ({"unexplained": 0.0, "max_key_point": 0.5}, "3 of 3 matched; key point 0.5"),
        ({"unexplained": 0.0}, "3 of 3 matched"),
    ],
)
def test_results_of_any_kind_are_shown_with_the_figures_that_they_have(figures, shown_as):
    limits = dict.fromkeys(figures, 0.25)
    lines = shown(check("decoded results", kind="decoded", figures=figures, limits=limits, note="3 of 3 matched"))
    (row,) = [line for line in lines if line.startswith("decoded results")]
    assert shown_as in row
    assert row.endswith("ok")


def test_checks_without_figures_show_their_note():
    lines = shown(check(kind="shape", figures={}, limits={}, note="[1, 80, 128, 128] float32"))
    (row,) = [line for line in lines if line.startswith("hm")]
    assert "[1, 80, 128, 128] float32" in row


def test_verbose_shows_every_check_and_the_ledger():
    ledger = [Stage("exported", "hm", 1e-9, 2e-7, 4e-7, True), Stage("graph.fold", "hm", 0.25, 0.25, 4e-7, False)]
    lines = shown(check(case="min"), check(case="max"), verbose=True, ledger=ledger)
    assert any(line.split()[:5] == ["exported", "hm", "1e-09", "2e-07", "4e-07"] for line in lines)
    assert any(line.startswith("graph.fold") and line.endswith("FAIL") for line in lines)
    assert len([line for line in lines if line.startswith("hm ")]) == 2
    assert not any("exported" in line for line in shown(check(), ledger=ledger))


def test_notes_are_printed_as_they_are():
    assert "note: [odd] is ill-conditioned" in shown(check(), notes=["[odd] is ill-conditioned"])
