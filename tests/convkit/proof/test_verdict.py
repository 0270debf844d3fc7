"""The verdict: passed only if there is something and all of it passed, and the same after JSON."""

from __future__ import annotations

import json
import math

from convkit import Verdict
from convkit.proof import Check, Stage


def check(passed: bool = True, **figures: float) -> Check:
    return Check("values", "opt (batch 1)", "hm", passed, figures, dict.fromkeys(figures, 1.0))


def stage(passed: bool = True) -> Stage:
    return Stage("exported", "hm", 0.0, 1e-7, 1e-6, passed)


def test_a_verdict_needs_checks_and_all_of_them():
    assert not Verdict("e", "cpu").passed
    assert not Verdict("e", "cpu", ledger=[stage()]).passed
    assert Verdict("e", "cpu", checks=[check()], ledger=[stage()]).passed
    assert not Verdict("e", "cpu", checks=[check(), check(False)]).passed
    assert not Verdict("e", "cpu", checks=[check()], ledger=[stage(), stage(False)]).passed


def test_a_verdict_is_as_true_as_it_passed():
    assert Verdict("e", "cpu", checks=[check()])
    assert not Verdict("e", "cpu", checks=[check(False)])


def test_the_headline_counts_and_locates():
    passed = Verdict("onnxruntime", "cpu", checks=[check(), check()])
    assert passed.headline() == "proved: 2 checks passed on onnxruntime (cpu)"
    failed = Verdict("onnxruntime", "cpu", checks=[check(), check(False)], ledger=[stage(), stage(False)])
    assert failed.headline() == (
        "NOT proved: 1 of 2 checks failed on onnxruntime; the error enters at stage 'exported', output 'hm'"
    )
    assert failed.failures == [check(False)]


def test_what_cannot_be_compared_is_not_proved_and_not_wrong():
    vague = Check("decoded", "opt", "decoded results", False, {}, {}, comparable=False)
    verdict = Verdict("onnxruntime", "cpu", checks=[check(), vague], ledger=[stage()])
    assert not verdict.passed
    assert not verdict.comparable
    assert verdict.headline().startswith("NOT proved: 1 of 2 checks are not comparable on onnxruntime")
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict
    for wrong in (Verdict("e", "cpu", checks=[vague, check(False)]), Verdict("e", "cpu", ledger=[stage(False)])):
        assert wrong.comparable
    assert Verdict("e", "cpu", checks=[check()]).comparable
    assert [each.state for each in (check(), check(False), vague)] == ["ok", "FAIL", "not comparable"]


def test_a_verdict_survives_json():
    verdict = Verdict(
        "onnxruntime",
        "cpu",
        inputs="8 images",
        checks=[check(max_abs=0.25), check(rel_l2=1e-8)],
        ledger=[stage()],
        baselines={"hm": {"max_abs": 1e-6}},
        notes=["something"],
    )
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_infinite_figures_are_written_as_null_and_the_json_is_strict():
    verdict = Verdict(
        "e", "cpu", checks=[check(False, max_abs=math.inf, rel_l2=math.nan)], baselines={"hm": {"max_abs": math.inf}}
    )
    text = json.dumps(verdict.to_json(), allow_nan=False)
    document = json.loads(text)
    assert document["checks"][0]["figures"] == {"max_abs": None, "rel_l2": None}
    assert document["passed"] is False
    assert Verdict.from_json(document).baselines == {"hm": {"max_abs": math.inf}}
