"""``convkit convert``: checkpoint to proved artifact."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import (
    CalibrateOption,
    CalibrationOption,
    JsonOption,
    QuietOption,
    TargetOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from convkit.conversion import Conversion, ConversionPlan


def convert(
    adapter: Annotated[str, typer.Argument(help="Which model family; `convkit adapters` lists them.")],
    weights: Annotated[
        Path,
        typer.Option(
            "--weights", "-w", help="The checkpoint: a file, or a folder where the adapter reads one.", metavar="PATH"
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to make; default ./ADAPTER-VARIANT-SIZE.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", "--format", help="onnx, or an engine besides: tensorrt-rtx.", metavar="NAME")
    ] = None,
    target: TargetOption = None,
    form: Annotated[str | None, typer.Option("--form", help="Output form, one of the adapter's.")] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="NAME=N or NAME=MIN:OPT:MAX, e.g. batch=1:4:8.", metavar="NAME=SIZES"),
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="ONNX opset.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of graph and engine: fp32, fp16, bf16, int8 or auto.")
    ] = None,
    io_precision: Annotated[
        str | None, typer.Option("--io-precision", help="Of inputs and outputs of a typed graph: fp32, fp16 or bf16.")
    ] = None,
    keep_fp32: Annotated[
        Path | None,
        typer.Option("--keep-fp32", help="Nodes that stay in float32, one name on each line.", metavar="FILE"),
    ] = None,
    graph: Annotated[
        Path | None,
        typer.Option("--graph", help="Prove this ONNX file of yours in place of the exported one.", metavar="FILE"),
    ] = None,
    calibrate: CalibrateOption = None,
    calibration: CalibrationOption = None,
    metric_data: Annotated[
        Path | None,
        typer.Option(
            "--metric-data", help="Compare AP with float32's on it: annotations.json and images/.", metavar="DIR"
        ),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help="Real inputs to prove with: a folder or file.", metavar="PATH")
    ] = None,
    names: Annotated[
        Path | None, typer.Option("--names", help="Class names, one on each line.", metavar="FILE")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the adapter.", metavar="NAME=VALUE")
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="How many inputs to prove with.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the adapter's samples.")] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="Engine to prove.", metavar="NAME")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Device of the engine.", metavar="DEVICE")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings file; default ./convkit.toml.", metavar="FILE")
    ] = None,
    keep_exported: Annotated[
        bool, typer.Option("--keep-exported", help="Keep the graph as it was before the rewrites, for `convkit diff`.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artifact that is there.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show stages and settings with their origin; do nothing.")
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Convert a checkpoint to a proved artifact."""
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.conversion import plan_conversion, run_plan
    from convkit.errors import ProofFailedError

    asked = plan_conversion(
        adapter,
        weights=weights,
        output=output,
        config=config,
        settings={
            "to": to,
            "target": target,
            "form": form,
            "shape": shape,
            "opset": opset,
            "precision": precision,
            "io_precision": io_precision,
            "keep_fp32": keep_fp32,
            "graph": graph,
            "calibrate": calibrate,
            "calibration": calibration,
            "metric_data": metric_data,
            "inputs": inputs,
            "names": names,
            "set": option,
            "samples": samples,
            "seed": seed,
            "backend": backend,
            "device": device,
            "keep_exported": keep_exported or None,
        },
    )
    if plan:
        _show_plan(asked, json=json)
        return 0
    from convkit.cli._console import emit, emit_json, error_text, stderr, steps
    from convkit.cli._ladder import print_engine, print_ladder
    from convkit.cli._verdict import print_verdict

    try:
        with steps(f"convert {adapter}") as step:
            done = run_plan(asked, overwrite=overwrite, progress=step)
    except ProofFailedError as error:
        if error.verdict is not None:
            print_verdict(error.verdict, stderr(), verbose=True)
        if json:
            emit_json({"proved": False, "error": error.message, "hint": error.hint})
        sys.stderr.write(error_text(error) + "\n")
        return error.exit_code
    print_verdict(done.verdict, stderr(), verbose=verbose)
    print_ladder(done.ladder, stderr())
    if done.engine:
        print_engine(done.engine, stderr())
    if json:
        emit_json(_summary(done, step.seconds))
        return 0
    _next_commands(done, step.seconds)
    emit(str(done.artifact.path))
    return 0


def _summary(done: Conversion, seconds: float) -> dict[str, Any]:
    manifest = done.artifact.manifest
    return {
        "proved": done.verdict.passed,
        "artifact": str(done.artifact.path),
        "adapter": manifest["adapter"]["name"],
        "variant": manifest["model"]["variant"],
        "form": manifest["graph"]["form"],
        "opset": manifest["graph"]["opset"],
        "seconds": round(seconds, 2),
        "stages": [{"stage": name, "seconds": round(value, 2)} for name, value in done.seconds.items()],
        "verdict": done.verdict.to_json(),
        "ladder": (done.engine or done).ladder.to_json(),
        **({"engine": str(done.engine.folder)} if done.engine else {}),
    }


def _next_commands(done: Conversion, seconds: float) -> None:
    from convkit.artifact import spec_from_manifest
    from convkit.cli._console import stderr
    from convkit.cli._ladder import prove_command
    from convkit.processing import ImageReader, find_preprocess

    console = stderr()
    spec, path = spec_from_manifest(done.artifact.manifest), shlex.quote(str(done.artifact.path))
    images = isinstance(find_preprocess(spec.preprocess).reader, ImageReader)
    shown = "" if not spec.decode else " --draw out/" if images else " --json"
    console.print(f"\n{spec.variant} converted and proved in {seconds:.1f} s. Next:", markup=False)
    engine = [(prove_command(done.engine), "prove the engine on its GPU")] if done.engine else []
    for command, purpose in (
        (f"convkit run {path} {'IMAGE' if images else 'FILE'}{shown}", "see what it finds"),
        (f"convkit validate {path}", "prove it again, anywhere"),
        (f"convkit inspect {path}", "look inside"),
        *engine,
    ):
        console.print(f"  {command:<56} {purpose}", markup=False)


def _show_plan(asked: ConversionPlan, *, json: bool) -> None:
    from convkit.cli._console import emit_json, stdout
    from convkit.cli._layout import add_row, show, table

    settings = asked.settings.to_json()
    dims = [str(dim) for dim in asked.settings.dims]
    if json:
        emit_json({"adapter": asked.adapter.name, "stages": list(asked.stages), "settings": settings, "dims": dims})
        return
    rows = table("setting", "value", "origin")
    for item in settings:
        add_row(rows, item["name"], str(item["value"]), item["origin"])
    show(stdout(), "Stages: " + " > ".join(asked.stages), "Shapes: " + ", ".join(dims), rows)
