"""The proof of an engine: every shape, every output, decoded results, and batch against single."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from convkit import Dim, ModelSpec, Prepared, TensorSpec, Verdict
from convkit.model import PRECISIONS
from convkit.proof import Samples, measure_baselines, prove, shape_cases
from convkit.results import Classification

Arrays = Mapping[str, np.ndarray]
RNG = np.random.default_rng(0)
BATCH = Dim("batch", 1, 1, 4)
WEIGHT = RNG.standard_normal((6, 3))


def spec(batch: Dim = BATCH, **changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "variant": "v",
        "dims": (batch,),
        "inputs": (TensorSpec("x", ("batch", 6)),),
        "outputs": (TensorSpec("logits", ("batch", 3)), TensorSpec("top", ("batch",), "int64")),
    }
    return ModelSpec(**{**fields, **changes})


SAMPLES = Samples(
    spec(), {(): [Prepared({"x": RNG.standard_normal(6).astype(np.float32)}, {"n": n}) for n in range(3)]}
)


def exact(feed: Arrays) -> dict[str, np.ndarray]:
    logits = feed["x"].astype(np.float64) @ WEIGHT
    return {"logits": logits, "top": logits.argmax(1)}


def float32(feed: Arrays) -> dict[str, np.ndarray]:
    logits = feed["x"] @ WEIGHT.astype(np.float32)
    return {"logits": logits, "top": logits.argmax(1)}


def softmax(outputs: Arrays, metas: Sequence[Mapping[str, Any]]) -> list[Classification]:
    weights = np.exp(outputs["logits"].astype(np.float64))
    assert len(metas) == len(weights)
    return [Classification((row / row.sum()).astype(np.float32)) for row in weights]


def judged(
    engine: Callable[[Arrays], Arrays],
    model: ModelSpec | None = None,
    *,
    with_decode: bool = True,
    decode: Any = softmax,
    **options: Any,
) -> Verdict:
    model = model or spec()
    cases = shape_cases(model.dims)
    used = decode if with_decode else None
    baselines = measure_baselines(model, exact, float32, SAMPLES, cases, used)
    return prove(
        model,
        reference=exact,
        engine=engine,
        samples=SAMPLES,
        cases=cases,
        baselines=baselines,
        decode=used,
        verdict=Verdict("engine", "cpu"),
        **options,
    )


def failed(verdict: Verdict) -> set[tuple[str, str]]:
    return {(check.kind, check.output) for check in verdict.failures}


def test_an_engine_as_good_as_pytorch_is_proved_in_every_shape():
    verdict = judged(float32)
    assert verdict.passed
    assert verdict.notes == []
    kinds = {(check.kind, check.case, check.output) for check in verdict.checks}
    for case in ("min=opt (batch 1)", "max (batch 4)", "odd (batch 3)"):
        for output in ("logits", "top"):
            assert {("shape", case, output), ("values", case, output)} <= kinds
        assert ("decoded", case, "decoded results") in kinds
    assert {case for kind, case, _ in kinds if kind == "batch"} == {"batch 4 against single", "batch 3 against single"}
    assert len(verdict.checks) == 3 * 5 + 2 * 2


def test_the_error_of_an_engine_is_measured_not_assumed():
    def off(feed: Arrays) -> dict[str, np.ndarray]:
        outputs = float32(feed)
        outputs["logits"][..., 1] += np.float32(0.25)
        return outputs

    verdict = judged(off)
    values = [check for check in verdict.checks if (check.kind, check.output) == ("values", "logits")]
    assert all(not check.passed for check in values)
    assert [check.figures["max_abs"] for check in values] == pytest.approx([0.25] * 3, rel=1e-5)
    assert ("decoded", "decoded results") in failed(verdict)
    assert ("values", "top") not in failed(verdict)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda logits: logits[:, :2], "2] float32 where"),
        (lambda logits: logits[..., None], "3, 1] float32 where"),
        (lambda logits: logits[:1], ""),
        (lambda logits: logits.astype(np.float64), "float64 where"),
        (lambda logits: logits.astype(np.float16), "float16 where"),
    ],
    ids=["a channel less", "an axis more", "a batch of one", "float64", "float16"],
)
def test_another_shape_or_dtype_than_declared_fails(change, note):
    verdict = judged(lambda feed: {**float32(feed), "logits": change(float32(feed)["logits"])})
    assert ("shape", "logits") in failed(verdict)
    assert any(note in check.note for check in verdict.failures)


def test_an_engine_that_mixes_the_samples_of_a_batch_fails_only_where_there_is_more_than_one():
    verdict = judged(lambda feed: float32({"x": np.repeat(feed["x"][:1], len(feed["x"]), 0)}))
    assert not verdict.passed
    assert {check.case for check in verdict.failures} == {
        "max (batch 4)",
        "odd (batch 3)",
        "batch 4 against single",
        "batch 3 against single",
    }


def test_an_engine_that_depends_on_its_batch_size_fails_the_batch_check():
    """Each batch is right to the limit, but the same sample gives another value alone."""
    wide = spec(outputs=(TensorSpec("logits", ("batch", 3)),))

    def engine(feed: Arrays) -> dict[str, np.ndarray]:
        return {"logits": float32(feed)["logits"] + np.float32(0.01 * (len(feed["x"]) > 1))}

    assert ("batch", "logits") in failed(judged(engine, wide, with_decode=False))


def test_where_single_samples_are_not_allowed_the_batch_is_reversed():
    batch = Dim("batch", 2, 2, 4)
    sizes: list[int] = []

    def engine(feed: Arrays) -> dict[str, np.ndarray]:
        sizes.append(len(feed["x"]))
        outputs = float32(feed)
        outputs["logits"][0] += np.float32(1e-3)  # the first place of a batch is wrong, whatever lies there
        return outputs

    verdict = judged(engine, spec(batch))
    assert min(sizes) == 2
    assert ("batch", "logits") in failed(verdict)
    assert any("against reversed" in check.case for check in verdict.checks)
    assert judged(float32, spec(batch)).passed


def test_values_that_are_no_numbers_fail():
    def engine(feed: Arrays) -> dict[str, np.ndarray]:
        outputs = float32(feed)
        outputs["logits"][-1, -1] = np.nan
        return outputs

    verdict = judged(engine)
    assert failed(verdict) == {("values", "logits"), ("shape", "logits")}, "what is no number is not decoded"


ROWS = spec(
    outputs=(TensorSpec("logits", ("batch", 3), compare="results"),), decode={"kind": "softmax of any row of numbers"}
)


def first_class(outputs: Arrays, metas: Sequence[Mapping[str, Any]]) -> list[Classification]:
    """Return results that depend on the first column only."""
    assert np.isfinite(outputs["logits"]).all(), "what is no number is not decoded"
    return [Classification(np.array([x, 1 - x], np.float32)) for x in 1 / (1 + np.exp(-outputs["logits"][:, 0]))]


def test_an_output_that_is_compared_by_results_is_judged_by_them_alone():
    def other_columns(feed: Arrays) -> dict[str, np.ndarray]:
        logits = float32(feed)["logits"]
        logits[:, 1:] += 1
        return {"logits": logits}

    verdict = judged(other_columns, ROWS, decode=first_class)
    assert verdict.passed
    assert {check.kind for check in verdict.checks} == {"shape", "decoded", "batch"}
    assert {check.output for check in verdict.checks if check.kind == "batch"} == {"decoded results"}
    wrong = judged(lambda feed: {"logits": -float32(feed)["logits"]}, ROWS, decode=first_class)
    assert failed(wrong) == {("decoded", "decoded results")}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_compared_by_results_must_be_numbers_wherever_they_stand(value):
    def engine(feed: Arrays) -> dict[str, np.ndarray]:
        outputs = float32(feed)
        outputs["logits"][-1, -1] = value
        return {"logits": outputs["logits"]}

    verdict = judged(engine, ROWS, decode=first_class)
    assert failed(verdict) == {("shape", "logits")}
    assert all("1 values are NaN or infinite" in check.note for check in verdict.failures)


def test_without_a_decode_the_verdict_says_so():
    verdict = judged(float32, with_decode=False)
    assert verdict.passed
    assert verdict.notes == ["the model has no decode: its outputs are what was compared"]
    assert all(check.kind != "decoded" for check in verdict.checks)


def test_an_ill_conditioned_output_is_named():
    baselines = {name: {"max_abs": 0.5, "rel_l2": 0.02, "scale": 9.0} for name in ("logits", "top")}
    verdict = prove(
        spec(),
        reference=exact,
        engine=float32,
        samples=SAMPLES,
        cases=shape_cases(spec().dims),
        baselines={**baselines, "top": {"max_abs": 0.0, "rel_l2": 0.0, "scale": 2.0}},
        decode=None,
        verdict=Verdict("engine", "cpu"),
    )
    (note,) = [note for note in verdict.notes if "ill-conditioned" in note]
    assert note.startswith("logits")
    assert "2.0%" in note


def test_baselines_are_pytorchs_own_errors_over_all_cases():
    cases = shape_cases(spec().dims)
    table = measure_baselines(spec(), exact, float32, SAMPLES, cases, softmax)
    worst = max(
        np.abs(exact(SAMPLES.feed(case))["logits"] - float32(SAMPLES.feed(case))["logits"]).max() for case in cases
    )
    assert table["logits"]["max_abs"] == pytest.approx(worst)
    assert 0 < table["logits"]["rel_l2"] < 1e-6
    assert table["top"]["max_abs"] == 0
    assert set(table) == {"logits", "top", "decoded results"}


def test_progress_names_and_counts_the_cases():
    steps: list[tuple[str, int, int]] = []
    judged(float32, progress=lambda step, done=0, total=0: steps.append((step, done, total)))
    assert steps == [
        ("proving min=opt (batch 1)", 0, 3),
        ("proving max (batch 4)", 1, 3),
        ("proving odd (batch 3)", 2, 3),
    ]


def test_a_baseline_in_16_bits_says_so_and_caps_what_may_be_lost():
    """PyTorch in float16 that gets every result wrong does not let an engine do the same."""

    def half(feed: Arrays) -> dict[str, np.ndarray]:
        logits = (-float32(feed)["logits"]).astype(np.float16).astype(np.float32)
        return {"logits": logits, "top": logits.argmax(1)}

    cases = shape_cases(spec().dims)
    table = measure_baselines(spec(), exact, half, SAMPLES, cases, softmax, precision=PRECISIONS["fp16"])
    assert table["logits"]["ulp"] == 2.0**-10
    plain = measure_baselines(spec(), exact, half, SAMPLES, cases, softmax)
    assert "ulp" not in plain["logits"]
    assert plain["decoded results"]["unexplained"] >= 1
    assert table["decoded results"]["unexplained"] <= 0.1 / 3


def test_an_output_is_ill_conditioned_in_16_bits_from_a_tenth_on():
    for error, noted in ((0.05, False), (0.2, True)):
        table = {"max_abs": 0.5, "rel_l2": error, "scale": 9.0, "ulp": 2.0**-7}
        verdict = prove(
            spec(), reference=exact, engine=float32, samples=SAMPLES, cases=shape_cases(spec().dims),
            baselines={"logits": table, "top": table}, decode=None, verdict=Verdict("engine", "cpu"),
        )  # fmt: skip
        notes = [note for note in verdict.notes if "ill-conditioned" in note]
        assert bool(notes) is noted
        assert all("bfloat16 result is 20.0% off" in note for note in notes)
