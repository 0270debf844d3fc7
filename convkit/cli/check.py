"""``convkit check``: what an inference engine's own parser makes of an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import JsonOption, QuietOption

if TYPE_CHECKING:
    from convkit.backends.tensorrt import Ladder

__all__ = ["check"]

ERRORS = 12
"""Refused nodes that are listed."""


def check(
    model: Annotated[Path, typer.Argument(help="An ONNX file or an artifact directory.", metavar="MODEL")],
    backend: Annotated[
        str, typer.Option("--backend", help="Inference engine: tensorrt-rtx.", metavar="NAME")
    ] = "tensorrt-rtx",
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="Compute capabilities to build for: sm86, 8.9 …", metavar="SM[,SM…]"),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape", help="Range of a dimension or an input: batch=1:4:8, x=1x3x64x64.", metavar="NAME=MIN:OPT:MAX"
        ),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help="Values to compare on, one array an input.", metavar="FILE.npz")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of random inputs.", metavar="N")] = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Ask TensorRT's parser and builder about an ONNX file; no GPU and no checkpoint is needed.

    The exit code is 0, 3 where the model is not accepted or not built, and 4 where what is built computes something
    else than the model.
    """
    from convkit.backends.tensorrt import check_model, read_inputs
    from convkit.cli._console import emit_json, stdout, steps
    from convkit.cli._ladder import print_ladder
    from convkit.inspection import open_graph

    set_verbosity(quiet=quiet)
    graph = open_graph(model)
    with steps("check") as progress:
        ladder = check_model(
            graph.file,
            graph.model,
            flavour=backend,
            targets=target or (),
            shapes=shape or (),
            inputs=None if inputs is None else read_inputs(inputs),
            seed=seed,
            progress=progress,
        )
    if json:
        emit_json({"model": graph.label, "backend": backend, "ladder": ladder.to_json()})
    else:
        console = stdout()
        print_ladder(ladder, console)
        for error in _refusals(ladder):
            console.print(error, markup=False)
    return ladder.exit_code


def _refusals(ladder: Ladder) -> list[str]:
    """Return a line for each node that the parser refuses, each target that cannot be built for, and what helps."""
    errors = ladder["accepted"].details.get("errors", [])
    lines = [f"  node {error['node']} {error['operator']} {error['name']!r}: {error['message']}"
             for error in errors[:ERRORS] if error["node"] >= 0]  # fmt: skip
    if len(errors) > ERRORS:
        lines.append(f"  and {len(errors) - ERRORS} more (--json lists them)")
    targets = ladder["built"].details.get("targets", {})
    lines += [f"  {target}: {reason}" for target, reason in targets.items() if reason]
    hints = (ladder[name].details.get("hint", "") for name in ("accepted", "built"))
    return [*lines, *(f"  {hint}" for hint in hints if hint)]
