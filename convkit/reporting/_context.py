"""What the templates show of one artifact, as texts and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convkit.reporting._graph_drawing import draw_graph
from convkit.reporting._parts import ReportParts
from convkit.reporting._pictures import embed
from convkit.reporting._plots import MOST_LAYERS, css_class, layers_plot, ledger_plot, number

__all__ = ["change_context", "context_of", "title_of"]

WORST = 12
_LONGEST_MANIFEST = 300_000
_STATES = {"passed": "ok", "failed": "fail"}


def title_of(manifest: Mapping[str, Any]) -> str:
    """Return adapter and variant."""
    return f"{manifest['adapter']['name']} {manifest['model']['variant']}".strip()


def context_of(
    manifest: Mapping[str, Any], verdict: Mapping[str, Any], parts: ReportParts, most_layers: int = MOST_LAYERS
) -> dict[str, Any]:
    """Return all that a template shows of an artifact, by name."""
    pictures, no_pictures = embed(parts.pictures)
    layers = layers_plot(parts.layers, most_layers)
    model = manifest["model"]
    return {
        "title": title_of(manifest),
        "passed": verdict["passed"],
        "headline": verdict["headline"],
        "reference": verdict["reference"],
        "inputs": verdict["inputs"],
        "notes": verdict["notes"],
        "ladder": _ladder(verdict["ladder"]),
        "engines": [{"name": name, "ladder": _ladder(rungs)} for name, rungs in parts.engines.items()],
        "pictures": pictures,
        "no_pictures": no_pictures,
        "ledger": ledger_plot(verdict["ledger"]),
        "layers": layers,
        "types": list(dict.fromkeys(css_class(layer["dtype"]) for layer in parts.layers)),
        "precision_text": _precision_text(parts.precision),
        "judged": parts.judged,
        "worst": _worst(parts.layers),
        "kept": list(parts.precision.get("reasons", {}).items()),
        "changes": list(_changes(manifest)),
        "drawn": _drawn(manifest, parts.graphs),
        **_latency(parts.bench),
        "sizes": _sizes(parts.sizes),
        "checks": [_check_row(check) for check in verdict["checks"]],
        "info": [(str(key), _plain(value)) for key, value in model["info"].items()],
        "tensors": [(t["name"], _plain(t["shape"]), t["dtype"]) for t in (*model["inputs"], *model["outputs"])],
        "settings": [(s["name"], _plain(s["value"]), s["origin"]) for s in manifest["settings"]],
        "made": list(_made(manifest)),
        "manifest": _manifest_text(manifest),
    }


def change_context(
    name: str, graph: Mapping[str, Any], *, reason: str = "", count: str = "", first: bool = False
) -> dict[str, Any]:
    """Return what the template shows of an excerpt, by name."""
    left_out = f" {graph['left_out']} more of its nodes are not shown." if graph["left_out"] else ""
    places = graph["places"]
    return {
        "title": f"{name}{' ' * bool(count)}{count}",
        "reason": reason,
        "before": draw_graph(graph["before"]),
        "after": draw_graph(graph["after"]),
        "note": f"{'The place' if places == 1 else f'The first of {places} places'} that it changed.{left_out}",
        "open": first,
    }


def _ladder(rungs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "status": rung["status"],
            "state": _STATES.get(rung["status"], "open"),
            "summary": rung["summary"],
        }
        for name, rung in rungs.items()
    ]


def _precision_text(types: Mapping[str, Any]) -> str:
    text = "Floating tensors are float32, as exported."
    if types:
        nodes = ", ".join(f"{count} nodes in {name}" for name, count in types["nodes"].items())
        shares = ", ".join(f"{share:.1%} in {name}" for name, share in types["arithmetic"].items())
        text = f"Asked for {types['asked']}: {nodes}{'; arithmetic: ' * bool(shares)}{shares}."
    return text


def _worst(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    measured = [layer for layer in layers if "local" in layer]
    measured.sort(key=lambda layer: float("-inf") if layer["local"] is None else -layer["local"])
    return [
        (
            layer["node"], layer["operator"], layer["module"], layer["dtype"],
            number(layer["local"]), number(layer["limit"]), number(layer["accumulated"]),
        )
        for layer in measured[:WORST]
    ]  # fmt: skip


def _changes(manifest: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for plugin, group in manifest["patches"].items():
        for each in group:
            yield "patch", each["name"], plugin, str(each["fired"]), each["expect"], each["reason"]
    for each in manifest["rewrites"]:
        yield "rewrite", each["name"], each["plugin"], str(each["fired"]), each["expect"], each["reason"]


def _drawn(manifest: Mapping[str, Any], graphs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    known = {each["name"]: each for each in manifest["rewrites"]}
    found: list[dict[str, Any]] = []
    for graph in graphs:
        record = known.get(graph["rewrite"], {})
        fired = record.get("fired", 0)
        count = f"(fired {fired} time{'' if fired == 1 else 's'})" if record else ""
        found.append(
            change_context(graph["rewrite"], graph, reason=record.get("reason", ""), count=count, first=not found)
        )
    return found


def _latency(bench: Mapping[str, Any]) -> dict[str, Any]:
    if not bench:
        return {"latency": [], "latency_protocol": ""}
    results, protocol = bench["results"], bench["protocol"]
    longest = max(entry["latency_ms"]["p50"] for entry in results) or 1.0
    rows = [
        {
            "engine": f"{entry['backend']} ({entry['device']}){', unproved' if entry.get('unproved') else ''}",
            "scope": entry["scope"],
            "batch": entry["batch"],
            "p50": f"{entry['latency_ms']['p50']:.4g}",
            "p90": f"{entry['latency_ms']['p90']:.4g}",
            "rate": f"{entry['items_per_second']:.4g}",
            "share": entry["latency_ms"]["p50"] / longest,
        }
        for entry in results
    ]
    gpus = "; ".join(str(gpu.get("name", "")) for gpu in protocol.get("gpu", ()))
    where = f"{gpus}{', ' * bool(gpus)}{protocol['machine']['cpu']}"
    text = f"{protocol['started']}, {where}, {protocol['threads']} threads. {protocol.get('order', '')}"
    return {"latency": rows, "latency_protocol": text}


def _sizes(sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    folders: dict[str, list[int]] = {}
    for name, size in sizes.items():
        folder, slash, _ = name.partition("/")
        folders.setdefault(f"{folder}{slash}", []).append(size)
    rows = [
        (f"{name} ({len(found)} files)" if name.endswith("/") else name, size_text(sum(found)))
        for name, found in sorted(folders.items(), key=lambda pair: -sum(pair[1]))
    ]
    return [*rows, ("together", size_text(sum(sizes.values())))] if rows else [("", "not known")]


def size_text(size: int) -> str:
    """Return bytes for people, in powers of 1000."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"


def _check_row(check: Mapping[str, Any]) -> tuple[str, ...]:
    figures = ", ".join(f"{key} {number(value)}" for key, value in check["figures"].items())
    limits = ", ".join(f"{key} {number(value)}" for key, value in check["limits"].items())
    shown = "; ".join(filter(None, (figures, check["note"])))
    state = "ok" if check["passed"] else "FAIL" if check.get("comparable", True) else "not comparable"
    return check["output"], check["kind"], check["case"], shown, limits, state


def _made(manifest: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    weights, graph, environment = manifest["weights"], manifest["graph"], manifest["environment"]
    for name, digest in (weights.get("files") or {weights["file"]: weights.get("sha256", "")}).items():
        yield "weights", f"{name}, SHA-256 {digest}"
    yield "opset, IR", f"{graph['opset']}, {graph['ir_version']}"
    yield "Python", f"{environment['python']}, {environment['platform']}"
    yield from environment["packages"].items()


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    if len(text) <= _LONGEST_MANIFEST:
        return text
    return f"{text[:_LONGEST_MANIFEST]}\n… {len(text) - _LONGEST_MANIFEST} more characters are in manifest.json"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
