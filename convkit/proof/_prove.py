"""The proof of one engine: every shape, every output, decoded results, batch against single."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit.errors import AdapterError, ValidationError, named
from convkit.model import BATCH, PRECISIONS, ModelSpec, Precision, TensorSpec, Tolerance, resolve
from convkit.plugins import manager
from convkit.processing import Decode, decode_batch, take_items
from convkit.progress import Progress, silent
from convkit.proof._cases import Case
from convkit.proof._computes import Compute, feed_key
from convkit.proof._metrics import broken_values, measure
from convkit.proof._rule import DECODED, ILL_CONDITIONED, ILL_CONDITIONED_16, baselines_of, judge
from convkit.proof._samples import Samples
from convkit.proof._verdict import Check, Verdict
from convkit.results import SLACK, Difference, Result, json_difference

__all__ = ["check_repeated", "measure_baselines", "prove", "score_slack"]

Outputs = Mapping[str, np.ndarray]
Baselines = Mapping[str, Mapping[str, float]]
FLOAT32 = PRECISIONS["fp32"]
MOST_UNMATCHED = 0.1
"""The share of results that a 16-bit engine may have without a partner at most, whatever PyTorch has."""


def measure_baselines(
    spec: ModelSpec,
    reference: Compute,
    candidate: Compute,
    samples: Samples,
    cases: Sequence[Case],
    decode: Decode | None,
    progress: Progress = silent,
    *,
    precision: Precision = FLOAT32,
) -> dict[str, dict[str, float]]:
    """Return the errors of PyTorch itself against the reference, by output and for decoded results.

    ``precision`` is that of the ``candidate``. Below float32, results count as ties by the slack that `prove` gives
    the engine, so that the two are counted alike; and however many results PyTorch loses that way, an engine may lose a
    tenth of them.
    """
    runs: list[dict[str, Any]] = []
    decoded: list[tuple[Sequence[Result], Sequence[Result]]] = []
    for number, case in enumerate(cases):
        progress(f"running PyTorch in {precision.dtype}", number, len(cases))
        feed = samples.feed(case)
        expected, found = reference(feed), candidate(feed)
        runs.append({output.name: [measure(expected[output.name], found[output.name])] for output in _by_values(spec)})
        if decode:
            metas = samples.metas(case)
            decoded.append((decode_batch(decode, expected, metas), decode_batch(decode, found, metas)))
    values = baselines_of(runs, precision.ulp)
    results = baselines_of(_compared(decoded, SLACK), precision.ulp)
    slack = score_slack(values | results)
    if precision != FLOAT32 and decoded and math.isfinite(slack):
        again = _compared(decoded, slack)
        results = baselines_of(again, precision.ulp)
        fewest = min(one.expected for run in again for one in run[DECODED])
        known = results[DECODED]
        known["unexplained"] = min(known["unexplained"], MOST_UNMATCHED * fewest / Tolerance().factor)
    return values | results


def check_repeated(
    decode: Decode, outputs: Outputs, metas: Sequence[Mapping[str, Any]], results: Sequence[Result]
) -> None:
    """Decode once more what gave ``results``; a proof is worth nothing if that gives others.

    Raises:
        AdapterError: it does.
    """
    for first, again in zip(results, decode_batch(decode, outputs, metas), strict=True):
        if note := json_difference(first.to_json(), again.to_json(), SLACK, "result"):
            who = named(f"the decode {type(decode).__name__}", manager().origin(decode))
            raise AdapterError(
                f"{who} returned two different results for the same outputs: {note}.",
                hint="A decode must be deterministic: no random numbers, no state, no order of a set.",
            )


def _compared(
    pairs: Sequence[tuple[Sequence[Result], Sequence[Result]]], slack: float
) -> list[dict[str, list[Difference]]]:
    return [
        {DECODED: [one.compare(other, slack=slack) for one, other in zip(expected, found, strict=True)]}
        for expected, found in pairs
    ]


def score_slack(baselines: Baselines) -> float:
    """Return by how much scores may differ and count as equal.

    Results that measure no scores are compared number by number: those may differ as the outputs do, relative above 1.
    """
    scores = baselines.get(DECODED, {}).get("max_score")
    if scores is None:
        outputs = [values for name, values in baselines.items() if name != DECODED]
        scores = max((values.get("max_abs", 0.0) / max(values.get("scale", 0.0), 1.0) for values in outputs), default=0)
    return max(SLACK, 3 * scores)


def prove(
    spec: ModelSpec,
    *,
    reference: Compute,
    engine: Compute,
    samples: Samples,
    cases: Sequence[Case],
    baselines: Baselines,
    decode: Decode | None,
    verdict: Verdict,
    stop_early: bool = False,
    progress: Progress = silent,
) -> Verdict:
    """Run ``engine`` in every case, compare it with ``reference`` and add the checks to ``verdict``.

    ``stop_early`` ends it after the first case in which a check failed.

    Raises:
        ValidationError: the engine lacks an output.
        AdapterError: the decode failed, or gives two results for the same outputs.
    """
    alone: dict[bytes, Outputs] = {}
    for number, case in enumerate(cases):
        if stop_early and verdict.failures:
            break
        progress(f"proving {case}", number, len(cases))
        feed = samples.feed(case)
        expected, actual = reference(feed), engine(feed)
        shapes = [_shape_check(output, case, expected, actual) for output in spec.outputs]
        verdict.checks.extend(shapes)
        for output in _by_values(spec):
            errors = [measure(expected[output.name], actual[output.name])]
            verdict.checks.append(judge(errors, output, str(case), baselines[output.name]))
        if not all(check.passed for check in shapes):
            continue  # what has another shape, or no numbers, can be neither decoded nor taken apart
        if case.batch == 1:
            alone[feed_key(feed)] = actual
        if decode:
            metas = samples.metas(case)
            check_repeated(decode, expected, metas, decode_batch(decode, expected, metas))
            found = _differences(spec, decode, metas, expected, actual, score_slack(baselines))
            verdict.checks.append(judge(found, None, str(case), baselines.get(DECODED, {})))
        if case.batch > 1:
            verdict.checks.extend(_batch_checks(spec, engine, samples, case, actual, baselines, decode, alone))
    if not decode:
        verdict.notes.append("the model has no decode: its outputs are what was compared")
    for output in _by_values(spec):
        error, ulp = (baselines[output.name].get(key, 0.0) for key in ("rel_l2", "ulp"))
        if error > (ILL_CONDITIONED_16 if ulp else ILL_CONDITIONED):
            kinds = [each.dtype for each in PRECISIONS.values() if each.ulp == (ulp or FLOAT32.ulp)]
            verdict.notes.append(
                f"{output.name} is ill-conditioned: PyTorch's own {' or '.join(kinds)} result is {error:.1%} off"
                " float64, so agreement within it says little"
            )
    return verdict


def _by_values(spec: ModelSpec) -> list[TensorSpec]:
    return [output for output in spec.outputs if output.compare == "values"]


def _shape_check(output: TensorSpec, case: Case, expected: Outputs, actual: Outputs) -> Check:
    """Check shape and dtype, and that the values are finite numbers."""
    if output.name not in actual:
        raise ValidationError(
            f"The engine has no output {output.name!r}; it returns {', '.join(actual)}.",
            hint="The graph is not the one that the specification describes; convert again.",
        )
    wanted = resolve(output.shape, {BATCH: 1, **case.table})
    found, dtype = actual[output.name].shape, str(actual[output.name].dtype)
    passed = found == wanted and dtype == output.host_dtype
    note = f"{list(found)} {dtype}" + ("" if passed else f" where {list(wanted)} {output.host_dtype} is declared")
    broken = broken_values(expected[output.name], actual[output.name])
    if broken:
        passed, note = False, f"{note}, {broken} values are NaN or infinite"
    return Check("shape", str(case), output.name, passed, {}, {}, note)


def _differences(
    spec: ModelSpec,
    decode: Decode,
    metas: Sequence[Mapping[str, Any]],
    expected: Outputs,
    actual: Outputs,
    slack: float = SLACK,
) -> list[Difference]:
    """Compare what a batch decodes to with what the reference's items decode to one by one.

    A decode that mixes up the items of a batch would otherwise do the same on both sides.
    """
    results = decode_batch(decode, actual, metas)
    found = []
    for row, (meta, result) in enumerate(zip(metas, results, strict=True)):
        item = take_items(spec.outputs, expected, slice(row, row + 1))
        found.append(decode_batch(decode, item, [meta])[0].compare(result, slack=slack))
    return found


def _batch_checks(
    spec: ModelSpec,
    engine: Compute,
    samples: Samples,
    case: Case,
    batched: Outputs,
    baselines: Baselines,
    decode: Decode | None,
    alone: dict[bytes, Outputs],
) -> list[Check]:
    """Compare a batch with its items run one by one, or in reverse where single ones are not allowed.

    ``alone`` is what items gave that were run by themselves before; each is run once.
    """
    feed = samples.feed(case)
    if spec.batch.min == 1:
        distinct = min(case.batch, len(samples.prepared[case.item_sizes]))
        rows = sorted({0, distinct - 1, case.batch - 1})
        items = [take_items(spec.inputs, feed, slice(row, row + 1)) for row in rows]
        single = [
            alone.get(key) or alone.setdefault(key, engine(item))
            for key, item in zip(map(feed_key, items), items, strict=True)
        ]
        other = {
            output.name: np.concatenate([one[output.name] for one in single])
            if output.batched
            else single[0][output.name]
            for output in spec.outputs
        }
        name = f"batch {case.batch} against single"
    else:
        rows = list(reversed(range(case.batch)))
        other = dict(engine(take_items(spec.inputs, feed, rows)))
        name = f"batch {case.batch} against reversed"
    same = take_items(spec.outputs, batched, rows)
    checks = [
        judge([measure(same[o.name], other[o.name])], o, name, baselines[o.name], kind="batch")
        for o in _by_values(spec)
    ]
    if decode and len(checks) < len(spec.outputs):
        metas = samples.metas(case)
        found = _differences(spec, decode, [metas[row] for row in rows], same, other, score_slack(baselines))
        checks.append(judge(found, None, name, baselines.get(DECODED, {}), kind="batch"))
    return checks
