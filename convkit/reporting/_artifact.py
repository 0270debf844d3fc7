"""Everything that a report shows of an artifact, gathered from the artifact itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convkit.artifact import Artifact, spec_from_manifest, stored_engines
from convkit.errors import EnvironmentProblem, InputError, ValidationError, blamed_on
from convkit.inspection import graph_precision, graph_stats
from convkit.model import BATCH
from convkit.plugins import manager
from convkit.processing import decode_batch, find_decode
from convkit.proof import GoldenSamples
from convkit.reporting._parts import ReportParts, layers_of
from convkit.results import DRAW_SCORE, Result
from convkit.runtime import load

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["draw_rows", "engine_results", "gather_parts"]

Results = list[tuple[str, Any, Result]]
"""Name, raw input and result of each input."""


def gather_parts(
    artifact: Artifact,
    model: onnx.ModelProto,
    *,
    bench: Mapping[str, Any] | None = None,
    errors: Mapping[str, Any] | None = None,
    pictures: bool = True,
) -> ReportParts:
    """Return what a report shows of an artifact whose files were verified, and of its graph ``model``.

    ``bench`` is that of `bench_of`, ``errors`` the document of a bisection. Results are drawn from the golden samples:
    the float64 reference's, and beside them those of the engine that proved the artifact, where it runs here.

    Raises:
        IntegrityError: the artifact's proof cannot be read.
    """
    spec = spec_from_manifest(artifact.manifest)
    types = graph_precision(model, graph_stats(model, {dim.name: dim.opt for dim in spec.dims}))
    engines = stored_engines(artifact)
    sizes = {name: entry["bytes"] for name, entry in artifact.manifest["files"].items()}
    for name, engine in engines.items():
        sizes |= {f"engines/{name}/{file}": entry["bytes"] for file, entry in engine.description["files"].items()}
    rows: Sequence[Sequence[tuple[str, np.ndarray]]] = ()
    if pictures and spec.decode:
        who, found = engine_results(artifact)
        rows = draw_rows({"PyTorch float64": _reference_results(artifact), **({who: found} if found else {})})
    return ReportParts(
        pictures=rows,
        layers=layers_of(model, types.kinds, errors),
        judged=errors["runners"][-1] if errors else "",
        precision=types.to_json(str(artifact.manifest["graph"]["precision"])),
        graphs=artifact.graphs,
        bench=bench or {},
        sizes=sizes,
        engines={name: engine.ladder for name, engine in engines.items()},
    )


def engine_results(artifact: Artifact, *, of: Artifact | None = None) -> tuple[str, Results]:
    """Return who runs an artifact here and what it finds in its golden samples, or in those ``of`` another one.

    There are no results where it does not run here, does not take those inputs, or has no decode.
    """
    source = of or artifact
    try:
        golden = GoldenSamples.load(source.path, spec_from_manifest(source.manifest), source.manifest["files"])
        with load(artifact.path, verify=False) as predictor:
            results = predictor.predict(list(golden.raws)) if predictor.decodes else []
            return predictor.backend, list(zip(golden.sources, golden.raws, results, strict=False))
    except (EnvironmentProblem, InputError, ValidationError):
        return "", []


def _reference_results(artifact: Artifact) -> Results:
    """Return what the stored float64 outputs decode to, in the sizes that the artifact is optimised for."""
    spec = spec_from_manifest(artifact.manifest)
    golden = GoldenSamples.load(artifact.path, spec, artifact.manifest["files"])
    decode = find_decode(spec.decode)
    sizes = tuple((dim.name, dim.opt) for dim in spec.dims if dim.name != BATCH)
    if decode is None or sizes not in golden.outputs:
        return []
    pairs = zip(golden.outputs[sizes], golden.samples.prepared[sizes], strict=True)
    results = [decode_batch(decode, outputs, [item.meta])[0] for outputs, item in pairs]
    return list(zip(golden.sources, golden.raws, results, strict=False))


def draw_rows(found: Mapping[str, Results]) -> list[list[tuple[str, np.ndarray]]]:
    """Return a row of captioned drawings for each input, one by each name; of two, what differs stands out."""
    rows = []
    for one in zip(*found.values(), strict=False):
        row = []
        for place, (who, (source, raw, result)) in enumerate(zip(found, one, strict=True)):
            other = one[1 - place][2] if len(one) == 2 else result
            with blamed_on(f"draw() of {type(result).__name__}", manager().origin(result)):
                shown = result.above(DRAW_SCORE)
                drawn = shown.draw_beside(raw, other)
            if drawn is not None:
                row.append((f"{source}, {who}: {shown.summary()}", drawn))
        rows.append(row)
    return rows
