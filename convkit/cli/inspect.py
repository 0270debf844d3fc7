"""``convkit inspect``: what an artifact or a bare ONNX file contains and costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convkit.cli._options import JsonOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convkit.artifact import Artifact, ProofRecord, StoredEngine
    from convkit.backends import Ladder, TensorRTPlugin
    from convkit.inspection import GraphPrecision, GraphStats

__all__ = ["inspect"]

SHOWN_CLASSES = 8


@dataclass(frozen=True)
class PluginUse:
    """An operator for which TensorRT needs a plugin, and the plugin that serves it, if one is known."""

    operator: str
    nodes: int
    plugin: TensorRTPlugin | None


def inspect(
    path: Annotated[Path, typer.Argument(help="An artifact directory or an ONNX file.", metavar="ARTIFACT|MODEL.onnx")],
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Size of a symbolic dimension for the arithmetic.", metavar="NAME=N"),
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=0, help="How many of the costliest nodes to show.")] = 5,
    json: JsonOption = False,
) -> None:
    """Show inputs, outputs, operators, parameters, arithmetic and precision; of an artifact also its proof."""
    from convkit.cli._console import emit_json, stdout
    from convkit.cli._layout import show
    from convkit.inspection import graph_precision, graph_stats, open_graph, symbolic_dims

    source = open_graph(path)
    sizes = _default_sizes(source.artifact) | _parse_sizes(shape or (), symbolic_dims(source.model))
    stats = graph_stats(source.model, sizes)
    uses = _plugin_uses(source.artifact, stats)
    precision = graph_precision(source.model, stats)
    asked = _asked(source.artifact)
    if json:
        document = _document(source.label, source.artifact, stats, uses)
        emit_json({**document, "precision": precision.to_json(asked)})
        return
    show(
        stdout(),
        *(_artifact_part(source.artifact) if source.artifact else _file_part(source.file)),
        *_engine_parts(source.artifact),
        *_graph_part(stats, uses),
        *_cost_part(stats, nodes),
        *_precision_part(precision, asked),
    )


def _document(label: str, artifact: Artifact | None, stats: GraphStats, uses: Sequence[PluginUse]) -> dict[str, Any]:
    return {
        "path": label,
        "manifest": dict(artifact.manifest) if artifact else None,
        "ladder": _ladder(artifact).to_json() if artifact else None,
        "proofs": [record.to_json() for record in _records(artifact)],
        "graph": stats.to_json(),
        "tensorrt_plugins": [asdict(use) for use in uses],
        "engines": {name: {**engine.summary(), "ladder": engine.ladder} for name, engine in _engines(artifact).items()},
    }


def _asked(artifact: Artifact | None) -> str | None:
    """Return the precision that was asked for, ``auto`` where it was searched for; None for a bare file."""
    if artifact is None:
        return None
    return str(artifact.manifest.get("precision", {}).get("asked", artifact.manifest["graph"]["precision"]))


def _artifact_part(artifact: Artifact) -> Iterator[RenderableType]:
    from convkit.cli._ladder import ladder_rows
    from convkit.cli._layout import bytes_text, field_grid, styled
    from convkit.model import Dim

    manifest = artifact.manifest
    model, graph, verdict = manifest["model"], manifest["graph"], manifest["verdict"]
    adapter, weights, packages = manifest["adapter"], manifest["weights"], manifest["environment"]["packages"]
    digest = f"{len(weights['files'])} files" if "files" in weights else f"sha256 {weights['sha256'][:12]}"
    onnx_file = manifest["files"][artifact.model.name]
    info = model["info"]
    dims = [Dim(**dim) for dim in model["dims"]]
    yield styled(str(artifact.path), style="bold")
    yield styled(verdict["headline"], style="green" if verdict["passed"] else "bold red")
    yield ""
    yield ladder_rows(_ladder(artifact))
    for record in _records(artifact):
        yield _record_line(record)
    yield ""
    yield field_grid(
        [
            ("adapter", f"{adapter['name']} ({adapter['distribution']} {adapter['version']})"),
            ("model", f"{model['variant']}, form {graph['form']}, {graph['precision']}"),
            ("shapes", ", ".join(map(str, dims))),
            ("classes", _class_names(model["classes"])),
            ("info", "; ".join(f"{name} {text}" for name, value in info.items() if (text := _plain(value)))),
            ("weights", f"{weights['file']}, {bytes_text(weights['bytes'])}, {digest}"),
            ("graph", f"{artifact.model.name}, {bytes_text(onnx_file['bytes'])}, sha256 {onnx_file['sha256'][:12]}"),
            ("patches", _fired(record for group in manifest["patches"].values() for record in group)),
            ("rewrites", _fired(manifest["rewrites"])),
            ("made with", f"convkit {manifest['convkit']}, torch {packages['torch']}, onnx {packages['onnx']}"),
        ]
    )
    yield ""


def _ladder(artifact: Artifact) -> Ladder:
    """Return the ladder on the backend and device of the conversion: its own, or that of a later proof there."""
    from convkit.backends import Ladder, device_kind

    own = artifact.manifest["environment"]["engine"]
    key = own["backend"], device_kind(own["device"]), own.get("compute_capability", "")
    later = (record for record in _records(artifact) if record.key == key and not record.problem)
    return Ladder.from_json(next((record.ladder for record in later), artifact.verdict["ladder"]))


def _records(artifact: Artifact | None) -> list[ProofRecord]:
    return artifact.records() if artifact else []


def _record_line(record: ProofRecord) -> RenderableType:
    """Return how a later proof ended, where it ran."""
    from convkit.backends import Ladder
    from convkit.cli._layout import styled

    machine = record.machine
    where = ", ".join(filter(None, (machine.get("gpu", record.device), machine.get("compute_capability", ""))))
    name = " ".join(filter(None, (record.backend, machine.get("version", ""))))
    failed = Ladder.from_json(record.ladder).failed
    fault = record.problem or (f"failed at {failed[0]}" if failed else "")
    return styled(f"{name} on {where}: {fault or 'proved later'}", style="bold red" if fault else "green")


def _engines(artifact: Artifact | None) -> dict[str, StoredEngine]:
    from convkit.artifact import stored_engines

    return stored_engines(artifact) if artifact else {}


def _engine_parts(artifact: Artifact | None) -> Iterator[RenderableType]:
    from convkit.backends import Ladder
    from convkit.cli._ladder import ladder_rows
    from convkit.cli._layout import styled

    for name, engine in _engines(artifact).items():
        narrow = engine.summary()["io"]
        io = f", with {', '.join(f'{edge} {dtype}' for edge, dtype in narrow.items())}" if narrow else ""
        yield styled(f"engine {name} for {', '.join(engine.summary()['targets'])}{io}", style="bold")
        yield ladder_rows(Ladder.from_json(engine.ladder))
        if engine.summary()["command"]:
            yield f"the backend's own tool builds the same there: {engine.summary()['command']}"
        yield ""


def _file_part(file: Path) -> Iterator[RenderableType]:
    from convkit.cli._layout import bytes_text, styled
    from convkit.files import sha256

    yield styled(str(file), style="bold")
    yield f"{bytes_text(file.stat().st_size)}, sha256 {sha256(file)[:12]}; a bare graph, without a proof"
    yield ""


def _graph_part(stats: GraphStats, uses: Sequence[PluginUse]) -> Iterator[RenderableType]:
    from convkit.cli._layout import bytes_text, count_text, field_grid, plural, shape_text

    opsets = ", ".join(f"{domain} {version}" for domain, version in stats.opsets.items())
    produced = f", by {stats.producer}" if stats.producer else ""
    weights = ", ".join(f"{count_text(count)} {dtype}" for dtype, count in stats.parameter_dtypes.items())
    if len(stats.parameter_dtypes) == 1:
        weights = next(iter(stats.parameter_dtypes))
    rows = [
        ("format", f"opset {opsets}; IR {stats.ir_version}{produced}"),
        *(("input", f"{tensor.name}  {tensor.dtype}  {shape_text(tensor.shape)}") for tensor in stats.inputs),
        *(("output", f"{tensor.name}  {tensor.dtype}  {shape_text(tensor.shape)}") for tensor in stats.outputs),
        ("parameters", f"{count_text(stats.parameters)}, {bytes_text(stats.parameter_bytes)} ({weights or 'none'})"),
        ("precision", ", ".join(f"{plural(n, f'{dtype} tensor')}" for dtype, n in stats.tensor_dtypes.items())),
        ("quantised", ", ".join(f"{name} x{count}" for name, count in stats.quantization.items())),
        *(("TensorRT", _plugin_text(use)) for use in uses),
    ]
    yield field_grid(rows)
    yield ""


def _cost_part(stats: GraphStats, shown: int) -> Iterator[RenderableType]:
    from convkit.cli._layout import add_row, flops_text, plural, shape_text, styled, table

    by_operator = stats.flops_by_operator()
    operators = table("operator", "nodes", *(["arithmetic", "share"] if stats.flops else []), numbers=(1, 2, 3))
    for name, count in sorted(stats.operators.items(), key=lambda item: -by_operator.get(item[0], 0)):
        flops = by_operator.get(name)
        cost = [flops_text(flops), f"{flops / stats.flops:.1%}"] if flops and stats.flops else []
        add_row(operators, name, str(count), *cost)
    yield operators
    yield ""
    if stats.flops is None:
        names = " ".join(f"--shape {name}=N" for name in stats.unsized)
        yield styled(f"{plural(stats.nodes, 'node')}; give {names} to count their arithmetic", style="yellow")
        return
    sizes = "".join(f", {name}={size}" for name, size in stats.sizes.items())
    yield styled(
        f"{flops_text(stats.flops)} in {plural(stats.nodes, 'node')}{sizes} (a multiply-add is two)", style="bold"
    )
    if stats.uncounted:
        names = ", ".join(f"{name} x{count}" for name, count in stats.uncounted.items())
        yield styled(f"not counted, without a formula or a shape: {names}", style="yellow")
    if not stats.costs or not shown:
        return
    costliest = table("costliest nodes", "output", "arithmetic", "share", numbers=(2, 3))
    for node in stats.costs[:shown]:
        name = node.name if node.name.startswith(node.module) else f"{node.name} of {node.module}"
        share = f"{node.flops / stats.flops:.1%}" if stats.flops else ""
        add_row(costliest, name, shape_text(node.output), flops_text(node.flops), share)
    yield ""
    yield costliest


def _class_names(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > SHOWN_CLASSES else ""
    return f"{len(names)}: {', '.join(names[:SHOWN_CLASSES])}{more}"


def _fired(records: Iterable[Mapping[str, Any]]) -> str:
    """Return which patches or rewrites did something, and how often."""
    entries = list(records)
    fired = [f"{entry['name']} x{entry['fired']}" for entry in entries if entry["fired"]]
    idle = len(entries) - len(fired)
    if not fired:
        return f"none of {idle} had anything to do" if idle else "none"
    return ", ".join(fired) + (f" ({idle} more had nothing to do)" if idle else "")


def _precision_part(precision: GraphPrecision, asked: str | None) -> Iterator[RenderableType]:
    """Show the types of a graph that is not float32 throughout, and why nodes stayed so."""
    from convkit.cli._layout import add_row, plural, styled, table

    if not precision.kept and set(precision.nodes) <= {"float32"}:
        return
    counts = ", ".join(f"{plural(count, 'node')} in {name}" for name, count in precision.nodes.items())
    shares = ", ".join(f"{share:.0%} {name}" for name, share in precision.arithmetic.items())
    yield ""
    yield styled(f"{asked or 'types'}: {counts}{f'; arithmetic {shares}' if shares else ''}", style="bold")
    if precision.kept:
        rows = table("kept in float32", "why")
        for name, reason in precision.kept.items():
            add_row(rows, name, reason)
        yield rows


def _plugin_text(use: PluginUse) -> str:
    if use.plugin is None:
        return f"{use.operator} x{use.nodes}: no layer, and no plugin known that serves it"
    plugin = use.plugin
    origin = "shipped with TensorRT" if plugin.source == "shipped" else f"from {plugin.source}"
    note = f"; {plugin.note}" if plugin.note else ""
    return f"{use.operator} x{use.nodes}: plugin {plugin.plugin} version {plugin.version}, {origin}{note}"


def _plain(value: Any) -> str:
    """Return a value of a model's info as a person would write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return str(value)


def _default_sizes(artifact: Artifact | None) -> dict[str, int]:
    """Return the sizes that an artifact is optimised for."""
    return {dim["name"]: dim["opt"] for dim in artifact.manifest["model"]["dims"]} if artifact else {}


def _parse_sizes(texts: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """Parse every ``NAME=N``; names are whatever the graph calls its dimensions."""
    from convkit.errors import SettingError, suggest

    sizes = {}
    for text in texts:
        name, _, number = text.strip().rpartition("=")
        if not name or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise SettingError(f"--shape {text!r} is not a size.", hint="Write NAME=N, for example --shape batch=4.")
        if name not in known:
            listed = f"It has {', '.join(known)}." if known else "All its dimensions are fixed."
            raise SettingError(
                f"The graph has no symbolic dimension {name!r}.", hint=f"{listed} {suggest(name, known)}"
            )
        sizes[name] = int(number)
    return sizes


def _plugin_uses(artifact: Artifact | None, stats: GraphStats) -> list[PluginUse]:
    """Return the operators that the loaded plugins serve in TensorRT, and those outside of the standard."""
    from convkit.model import Target
    from convkit.plugins import manager

    target = Target(opset=stats.opsets.get("ai.onnx", 0))
    if artifact:
        target = Target(**{key: artifact.manifest["graph"][key] for key in ("format", "opset", "form", "precision")})
    found = manager().gather("convkit_tensorrt_plugins", target=target).values()
    serving = [plugin for plugins in found for plugin in plugins]

    def server(name: str) -> TensorRTPlugin | None:
        domain, _, op_type = name.rpartition("::")
        fitting = (each for each in serving if each.op_type == op_type and each.domain in ("", domain))
        return next(fitting, None)

    return [
        PluginUse(name, count, server(name))
        for name, count in stats.operators.items()
        if server(name) or name in stats.foreign or "::" in name
    ]
