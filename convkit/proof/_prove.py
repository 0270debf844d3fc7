"""The proof of one engine: every shape, every output, decoded results, batch against single."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from convkit.model import ModelSpec, TensorSpec, resolve
from convkit.processing import Decode
from convkit.progress import Progress, silent
from convkit.proof._cases import Case
from convkit.proof._matching import MatchError, compare_results
from convkit.proof._rule import DECODED, ILL_CONDITIONED, judge, yardsticks_of
from convkit.proof._runners import Compute, compare_runs, output_errors
from convkit.proof._samples import Samples
from convkit.proof._verdict import Check, Verdict

__all__ = ["measure_yardsticks", "prove"]


class _Recorder:
    """A `Compute` that remembers its last outputs, for the comparison of decoded results."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.history: list[Mapping[str, np.ndarray]] = []

    def __call__(self, feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        self.history.append(self.compute(feed))
        return self.history[-1]


def measure_yardsticks(
    spec: ModelSpec,
    reference: Compute,
    float32: Compute,
    samples: Samples,
    cases: Sequence[Case],
    decode: Decode | None,
) -> dict[str, dict[str, float]]:
    """Return PyTorch's own float32 errors against the reference, by output and for decoded results."""
    recorders = [_Recorder(reference), _Recorder(float32)]
    runs = compare_runs(
        {"float64": recorders[0], "float32": recorders[1]}, [samples.feed(c) for c in cases], spec.inputs, spec.outputs
    )
    table = yardsticks_of(runs["float32"])
    if decode:
        decoded = [
            {DECODED: _decoded(decode, samples, case, a, b)}
            for case, a, b in zip(cases, recorders[0].history, recorders[1].history, strict=True)
        ]
        table.update(yardsticks_of(decoded))
    return table


def prove(
    spec: ModelSpec,
    *,
    reference: Compute,
    engine: Compute,
    samples: Samples,
    cases: Sequence[Case],
    yardsticks: Mapping[str, Mapping[str, float]],
    decode: Decode | None,
    verdict: Verdict,
    progress: Progress = silent,
) -> Verdict:
    """Run ``engine`` in every case, compare it with ``reference`` and add the checks to ``verdict``."""
    for number, case in enumerate(cases):
        progress(f"proving {case}", number, len(cases))
        recorders = [_Recorder(reference), _Recorder(engine)]
        runs = compare_runs(
            {"reference": recorders[0], "engine": recorders[1]}, [samples.feed(case)], spec.inputs, spec.outputs
        )
        expected, actual = recorders[0].history[0], recorders[1].history[0]
        shapes = [_shape_check(output, case, actual) for output in spec.outputs]
        verdict.checks.extend(shapes)
        for output in spec.outputs:
            errors = runs["engine"][0][output.name]
            verdict.checks.append(judge(errors, output, str(case), yardsticks[output.name]))
        if not all(check.passed for check in shapes):
            continue  # what has another shape can be neither decoded nor taken apart
        if decode:
            found = _decoded(decode, samples, case, expected, actual, yardsticks.get(DECODED, {}))
            verdict.checks.append(judge(found, None, str(case), yardsticks.get(DECODED, {})))
        if case.batch > 1:
            verdict.checks.extend(_batch_checks(spec, engine, samples, case, actual, yardsticks))
    if not decode:
        verdict.notes.append("decoded results were not compared: no loaded plugin decodes this model's outputs")
    for output in spec.outputs:
        if yardsticks[output.name].get("rel_l2", 0.0) > ILL_CONDITIONED:
            verdict.notes.append(
                f"{output.name} is ill-conditioned: PyTorch's own float32 result lies"
                f" {yardsticks[output.name]['rel_l2']:.1%} from float64, so agreement within it says little"
            )
    return verdict


def _shape_check(output: TensorSpec, case: Case, actual: Mapping[str, np.ndarray]) -> Check:
    wanted = resolve(output.shape, {"batch": 1, **case.table})
    found, dtype = actual[output.name].shape, str(actual[output.name].dtype)
    passed = found == wanted and dtype == output.dtype
    note = f"{list(found)} {dtype}" + ("" if passed else f" where {list(wanted)} {output.dtype} is declared")
    return Check("shape", str(case), output.name, passed, {}, {}, note)


def _decoded(
    decode: Decode,
    samples: Samples,
    case: Case,
    expected: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    yardstick: Mapping[str, float] | None = None,
) -> list[MatchError]:
    metas = [item.meta for item in samples.items(case)]
    slack = max(1e-4, 3 * (yardstick or {}).get("max_score", 0.0))
    return [
        compare_results(a, b, score_slack=slack)
        for a, b in zip(decode(expected, metas), decode(actual, metas), strict=True)
    ]


def _batch_checks(
    spec: ModelSpec,
    engine: Compute,
    samples: Samples,
    case: Case,
    batched: Mapping[str, np.ndarray],
    yardsticks: Mapping[str, Mapping[str, float]],
) -> list[Check]:
    """Compare a batch with its samples run one by one, or in reverse where single ones are not allowed."""
    feed = samples.feed(case)
    lowest = next((dim.min for dim in spec.dims if dim.name == "batch"), 1)
    if lowest == 1:
        distinct = min(case.batch, len(samples.prepared[case.picture]))
        rows = sorted({0, distinct - 1, case.batch - 1})
        single = [engine({name: tensor[row : row + 1] for name, tensor in feed.items()}) for row in rows]
        other = {output.name: np.concatenate([one[output.name] for one in single]) for output in spec.outputs}
        same = {output.name: batched[output.name][rows] for output in spec.outputs}
        name = f"batch {case.batch} against single"
    else:
        other = dict(engine({name: np.ascontiguousarray(tensor[::-1]) for name, tensor in feed.items()}))
        same = {output.name: batched[output.name][::-1] for output in spec.outputs}
        name = f"batch {case.batch} against reversed"
    return [
        judge(output_errors(o, same[o.name], other[o.name]), o, name, yardsticks[o.name], kind="batch")
        for o in spec.outputs
    ]
