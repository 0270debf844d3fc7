"""``convkit build``: an engine of an artifact."""

from __future__ import annotations

from typing import Annotated

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import (
    ArtifactArgument,
    CalibrateOption,
    CalibrationOption,
    JsonOption,
    QuietOption,
    TargetOption,
    VerboseOption,
)


def build(
    artifact: ArtifactArgument,
    to: Annotated[str, typer.Option("--to", help="Kind of engine: tensorrt-rtx.", metavar="NAME")],
    target: TargetOption = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32, fp16, bf16 or int8; default that of the artifact.")
    ] = None,
    io_precision: Annotated[
        str | None, typer.Option("--io-precision", help="Of inputs and outputs of an fp16 or int8 engine: fp16.")
    ] = None,
    calibrate: CalibrateOption = None,
    calibration: CalibrationOption = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="An option of a plugin, such as dcn=gather.", metavar="NAME=VALUE")
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Build an engine of an artifact and prove as much of it as this machine can.

    The exit code is 3 where the backend does not accept or build the graph, 4 where it understands it differently or a
    typed graph does not compute what the model computes.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.cli._console import emit, emit_json, stderr, steps
    from convkit.cli._ladder import print_engine, prove_command
    from convkit.conversion import build_engine, option_pairs

    with steps(f"build {artifact}") as step:
        built = build_engine(
            artifact,
            to,
            targets=tuple(target or ()),
            precision=precision,
            io_precision=io_precision,
            calibrate=calibrate,
            method=calibration,
            options=option_pairs(option or ()),
            progress=step,
        )
    if json:
        command = built.engine.details.get("command", "")
        emit_json(
            {
                "engine": str(built.folder), "targets": built.engine.targets, "command": command,
                "ladder": built.ladder.to_json(),
            }
        )  # fmt: skip
        return 0
    print_engine(built, stderr())
    stderr().print(f"The pending rungs are proved on a GPU by: {prove_command(built)}", markup=False, soft_wrap=True)
    emit(str(built.folder))
    return 0
