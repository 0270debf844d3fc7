"""Which nodes of a model must stay in float32 so that a 16-bit graph does its task: errors first, then the search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.artifact import Artifact, spec_from_manifest
from convkit.bisection._artifact import golden_batches, load_graph
from convkit.bisection._compare import compare_runners
from convkit.bisection._errors import Bisection
from convkit.bisection._run import Parts, Runner
from convkit.bisection._typed import typed_graph
from convkit.errors import SettingError
from convkit.graph.precision import Search, Trial, search
from convkit.model import find_precision
from convkit.processing import decode_batch, find_decode
from convkit.progress import Progress, silent
from convkit.proof import GoldenSamples, measure

if TYPE_CHECKING:
    import onnx

    from convkit.model import ModelSpec

__all__ = ["DEFAULT_TRIALS", "Judge", "Kept", "Limits", "find_kept", "results_judge", "search_artifact"]

Values = Mapping[str, np.ndarray]
Judge = Callable[[Sequence[Values]], "bool | tuple[bool, str]"]
"""Whether the outputs for each feed are good enough; with the figures in words, if there are any."""
DEFAULT_TRIALS = 40


@dataclass(frozen=True)
class Limits:
    """How far results may lie from the reference's.

    ``score`` is the difference of two scores that counts as none, and the most that scores of matched results may
    differ; every result must have a partner, or such a difference explains that it has none. ``values`` is the relative
    error (Euclidean norm) of each output of a model without decode.
    """

    score: float = 0.01
    values: float = 0.01


@dataclass(frozen=True)
class Kept:
    """The nodes that a search keeps in float32, and the local errors that guided it.

    ``reasons`` has the nodes kept with the reason of each, for the file of a keep list. ``bisection`` is None where
    nothing had to be kept, so that nobody asked for errors.
    """

    search: Search
    bisection: Bisection | None
    reasons: Mapping[str, str]


def find_kept(
    model: onnx.ModelProto,
    typed: Callable[[Collection[str]], onnx.ModelProto],
    feeds: Sequence[Values],
    judge: Judge,
    *,
    name: str = "typed",
    by_module: bool = False,
    trials: int = DEFAULT_TRIALS,
    bisection: Bisection | None = None,
    task: Callable[[onnx.ModelProto], tuple[bool, str]] | None = None,
    progress: Progress = silent,
) -> Kept:
    """Return the smallest set of nodes of a float32 model that must stay so for ``judge`` to accept its typed graph.

    ``typed`` makes the graph in which the nodes of these names stay in float32 (``name`` is what tables call it); the
    backend ``torch`` runs it on ``feeds``. The search is guided by what the local errors on the first feed do to the
    outputs, and goes by whole modules first with ``by_module``. ``bisection`` has these errors; without it they are
    measured where the typed graph as it is was not accepted. ``task`` is asked of each typed graph that ``judge``
    accepts, and has to accept it, too.

    Raises:
        ConversionError: not even the nodes all in float32 are accepted.
    """
    low = typed(())
    with Parts("torch") as runs:

        def judged(graph: onnx.ModelProto) -> tuple[bool, str]:
            found = judge(runs.run(graph, *feeds))
            accepted, figures = found if isinstance(found, tuple) else (found, "")
            if not accepted or task is None:
                return accepted, figures
            accepted, more = task(graph)
            return accepted, "; ".join(filter(None, (figures, more)))

        progress("searching for nodes to keep in float32", 0, trials)
        first = judged(low)
        if first[0]:
            return Kept(Search((), (Trial(frozenset(), *first),), True), bisection, {})
        if bisection is None:
            bisection = compare_runners(model, [Runner(name, low)], feeds[:1], shares=None, progress=progress)
        rows = [row for row in bisection.nodes if row.dtype != "float32" and row.node]
        names = list(dict.fromkeys(row.node for row in rows))
        modules = {row.node: row.module for row in rows if row.module} if by_module else None

        def accept(kept: frozenset[str]) -> tuple[bool, str]:
            return judged(typed(kept)) if kept else first

        found = search(names, accept, errors=bisection.weights(), groups=modules, limit=trials, progress=progress)
    reasons = {row.node: row.reason for row in bisection.nodes if row.node in found.kept}
    return Kept(found, bisection, reasons)


def search_artifact(
    path: Path | str,
    precision: str = "fp16",
    *,
    limits: Limits | None = None,
    samples: int = 8,
    trials: int = DEFAULT_TRIALS,
    progress: Progress = silent,
) -> Kept:
    """Return the smallest set of nodes of an artifact's graph that must stay in float32 for its results to stay so.

    The typed graph runs on the golden samples; ``limits`` say how far results may lie from the stored ones, those of
    `Limits` by default.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved.
        SettingError: there is no such precision of 16 bits.
        ConversionError: not even float32 meets the limits.
    """
    if find_precision(precision).name not in ("fp16", "bf16"):
        raise SettingError(f"There is no search in {precision}.", hint="Search in fp16 or bf16.")
    artifact = Artifact.open(path)
    progress("checking hashes")
    artifact.verify()
    spec = spec_from_manifest(artifact.manifest)
    golden, model = GoldenSamples.load(artifact.path, spec, artifact.manifest["files"]), load_graph(artifact.model)
    batches = golden_batches(spec, golden, samples)
    feeds = [feed for feed, _ in batches]
    expected = [golden.reference()(feed) for feed in feeds]
    runner = Runner(f"torch:{precision}", typed_graph(artifact, model, precision))
    return find_kept(
        model,
        lambda kept: typed_graph(artifact, model, precision, kept),
        feeds,
        results_judge(spec, expected, [metas for _, metas in batches], limits or Limits()),
        trials=trials,
        bisection=compare_runners(model, [runner], feeds[:1], shares=None, progress=progress),
        progress=progress,
    )


def results_judge(
    spec: ModelSpec, expected: Sequence[Values], metas: Sequence[Sequence[Mapping[str, Any]]], limits: Limits
) -> Judge:
    """Return what accepts outputs whose decoded results, or without decode whose values, are within limits.

    ``expected`` are the reference's outputs and ``metas`` what decoding needs, for each feed.
    """
    decode = find_decode(spec.decode)

    def values(found: Sequence[Values]) -> tuple[bool, str]:
        pairs = zip(expected, found, strict=True)
        worst = max(measure(a[output.name], b[output.name]).rel_l2 for a, b in pairs for output in spec.outputs)
        return worst <= limits.values, f"outputs {worst:.2g} off (relative), {limits.values:.2g} is allowed"

    def results(found: Sequence[Values]) -> tuple[bool, str]:
        assert decode is not None
        broken = sum(
            _not_finite(b[output.name])
            for a, b in zip(expected, found, strict=True)
            for output in spec.outputs
            if not _not_finite(a[output.name])
        )
        if broken:
            return False, f"{broken} values of the outputs are not finite"
        differences = [
            one.compare(other, slack=limits.score)
            for a, b, each in zip(expected, found, metas, strict=True)
            for one, other in zip(decode_batch(decode, a, each), decode_batch(decode, b, each), strict=True)
        ]
        lost = sum(difference.unexplained for difference in differences)
        score = max((difference.figures.get("max_score", 0.0) for difference in differences), default=0.0)
        total = sum(difference.expected for difference in differences)
        text = f"{lost} of {total} results without a partner, scores {score:.2g} off, {limits.score:.2g} is allowed"
        return not lost and score <= limits.score, text

    return results if decode else values


def _not_finite(value: np.ndarray) -> int:
    return int(value.size - np.isfinite(value).sum()) if value.dtype.kind == "f" else 0
