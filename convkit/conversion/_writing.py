"""The end of a conversion: the artifact at its place, or a rejected one beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.artifact import GRAPHS, REPORT, VERDICT, Artifact, check_destination, publish
from convkit.conversion._culprit import graph_is_right
from convkit.errors import ProofFailedError
from convkit.progress import Progress

if TYPE_CHECKING:
    from convkit.conversion._proving import Proved
    from convkit.conversion._stages import Rewritten
    from convkit.conversion._typing import Typed

__all__ = ["reserve", "write_artifact"]


def reserve(output: Path, *, overwrite: bool) -> None:
    """Refuse early what could not be written later: the artifact, or a rejected one beside it."""
    check_destination(output, overwrite=overwrite)
    check_destination(_rejected(output), overwrite=True)


def write_artifact(
    folder: Path,
    output: Path,
    manifest: dict[str, Any],
    rewritten: Rewritten,
    proved: Proved,
    typed: Typed | None,
    *,
    overwrite: bool,
    progress: Progress,
) -> Artifact:
    """Write verdict and report, and publish the artifact; one that failed its proof beside ``output``, as rejected.

    Raises:
        ProofFailedError: it failed.
        OutputError, EnvironmentProblem: it cannot be written.
    """
    from convkit.reporting import ReportParts, layers_of, render_report

    verdict = proved.verdict
    document = {**verdict.to_json(), "ladder": proved.ladder.to_json()}
    graphs = [*rewritten.graphs, *(typed.graphs if typed else ())]
    (folder / GRAPHS).write_text(json.dumps(graphs, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / VERDICT).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    parts = ReportParts(
        pictures=proved.drawings,
        layers=layers_of(typed.model, typed.types.kinds) if typed else (),
        precision=typed.to_json() if typed else {},
        graphs=graphs,
        sizes={
            file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()
        },
    )
    (folder / REPORT).write_text(render_report(manifest, document, parts), encoding="utf-8")
    if verdict.passed:
        return publish(folder, output, manifest, overwrite=overwrite)
    rejected = _rejected(output)
    publish(folder, rejected, manifest, overwrite=True)
    if not verdict.comparable:
        raise ProofFailedError(
            f"Nothing can be proved of the results: {verdict.headline()}.",
            hint="An engine that is right cannot be told from a wrong one on these results. Give better weights, or"
            " samples on which the model finds what it was trained for (--inputs DIR)."
            f" The result was kept as {rejected}.",
            verdict=verdict,
        )
    lost = next((check for check in verdict.failures if check.kind == "metric"), None)
    if lost:
        raise ProofFailedError(
            f"The task loses too much: {lost.note} on {lost.case}; {lost.limits['drop']:g} less is allowed.",
            hint=f"Keep more in float32 (--precision auto, --keep-fp32). The result was kept as {rejected}.",
            verdict=verdict,
        )
    shown = f"The result was kept as {rejected} for inspection; `convkit validate {rejected}` shows every check."
    if graph_is_right(rejected, verdict.backend, progress):
        raise ProofFailedError(
            f"{verdict.backend} does not compute what PyTorch computes: {verdict.headline()}.",
            hint=f"The graph is right: PyTorch runs it within the same limits. {verdict.backend} computes less exactly."
            f" With --backend torch it is proved, and `run` and `load` use PyTorch; `convkit bisect {rejected} --engine"
            f" {verdict.backend}` names the nodes. {shown}",
            verdict=verdict,
        )
    raise ProofFailedError(
        f"The ONNX model does not compute what PyTorch computes: {verdict.headline()}.",
        hint=shown,
        verdict=verdict,
    )


def _rejected(output: Path) -> Path:
    return output.with_name(output.name + ".rejected")
