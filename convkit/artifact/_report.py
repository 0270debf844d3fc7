"""The report of an artifact: one HTML file without scripts or outside references, for people."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from convkit.results import DRAW_SCORE

__all__ = ["render_report"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #d9dee3; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.ok { color: #116329; } .fail { color: #b3261e; font-weight: 600; } .open { color: #59636e; }
.headline { padding: .7rem 1rem; border-radius: .4rem; background: #e7f4ea; }
.headline.fail { background: #fbe9e7; }
.row { display: flex; gap: 1rem; } figure { flex: 1 1 0; margin: 0 0 1rem; } img { max-width: 100%; }
figcaption { color: #59636e; font-size: .85rem; }
svg text { font: 12px system-ui, sans-serif; }
"""


def render_report(
    manifest: Mapping[str, Any],
    verdict: Mapping[str, Any],
    pictures: Sequence[Sequence[tuple[str, np.ndarray]]] = (),
) -> str:
    """Return the report as HTML.

    ``manifest`` and ``verdict`` are the JSON documents of the artifact; ``pictures`` are rows of captions with BGR
    images, shown side by side.
    """
    model, graph = manifest["model"], manifest["graph"]
    title = f"{manifest['adapter']['name']} {model['variant']}"
    state = "ok" if verdict["passed"] else "fail"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _ladder(verdict["ladder"]),
        f'<p class="headline {state}">{escape(verdict["headline"])}<br>Reference: {escape(verdict["reference"])}.'
        f" Inputs: {escape(verdict['inputs'])}.</p>",
        *(f"<p>Note: {escape(note)}.</p>" for note in verdict["notes"]),
        *_pictures(pictures),
        "<h2>Where error enters</h2>",
        "<p>Relative L2 error against float64 after each stage; the bar ends where the limit is.</p>",
        _ledger_plot(verdict["ledger"]),
        "<h2>Checks</h2>",
        _table(("output", "check", "shape", "figures", "limits", ""), map(_check_row, verdict["checks"])),
        "<h2>What was changed on the way</h2>",
        _table(
            ("kind", "name", "by", "fired", "expected", "why"),
            [
                *(
                    ("patch", r["name"], plugin, str(r["fired"]), r["expect"], r["reason"])
                    for plugin, group in manifest["patches"].items()
                    for r in group
                ),
                *(
                    ("rewrite", r["name"], r["plugin"], str(r["fired"]), r["expect"], r["reason"])
                    for r in manifest["rewrites"]
                ),
            ],
        ),
        "<h2>Model</h2>",
        _table(("", ""), [(str(key), _plain(value)) for key, value in model["info"].items()]),
        _table(
            ("tensor", "shape", "dtype"),
            [(t["name"], str(t["shape"]), t["dtype"]) for t in (*model["inputs"], *model["outputs"])],
        ),
        "<h2>Settings</h2>",
        _table(
            ("setting", "value", "origin"), [(s["name"], _plain(s["value"]), s["origin"]) for s in manifest["settings"]]
        ),
        "<h2>Made with</h2>",
        _table(
            ("", ""),
            [
                *_weights_rows(manifest["weights"]),
                ("opset, IR", f"{graph['opset']}, {graph['ir_version']}"),
                ("Python", f"{manifest['environment']['python']}, {manifest['environment']['platform']}"),
                *manifest["environment"]["packages"].items(),
            ],
        ),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _weights_rows(weights: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of a weights file, or of each file in a weights folder."""
    files = weights.get("files") or {weights["file"]: weights["sha256"]}
    return [("weights", f"{name}, SHA-256 {digest}") for name, digest in files.items()]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>\n" for row in rows)
    return f"<table><tr>{header}</tr>\n{body}</table>"


def _cell(text: str) -> str:
    if text in ("ok", "FAIL", "not comparable"):
        return f'<td class="{"ok" if text == "ok" else "fail"}">{text}</td>'
    return f"<td>{escape(text)}</td>"


def _check_row(check: Mapping[str, Any]) -> tuple[str, ...]:
    figures = ", ".join(f"{key} {_number(value)}" for key, value in check["figures"].items())
    limits = ", ".join(f"{key} {_number(value)}" for key, value in check["limits"].items())
    shown = "; ".join(filter(None, (figures, check["note"])))
    return check["output"], check["kind"], check["case"], shown, limits, _state(check)


def _state(check: Mapping[str, Any]) -> str:
    if check["passed"]:
        return "ok"
    return "FAIL" if check.get("comparable", True) else "not comparable"


def _ladder(ladder: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the rungs, each with its status and what that rests on."""
    colours = {"passed": "ok", "failed": "fail"}
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        f'<td class="{colours.get(rung["status"], "open")}">{escape(rung["status"])}</td>'
        f"<td>{escape(rung['summary'])}</td></tr>\n"
        for name, rung in ladder.items()
    )
    return f"<table><tr><th>rung</th><th>status</th><th>what it rests on</th></tr>\n{rows}</table>"


def _pictures(pictures: Sequence[Sequence[tuple[str, np.ndarray]]]) -> Iterable[str]:
    if any(pictures):
        yield f"<p>Results with a score of {DRAW_SCORE} or more, as <code>convkit run --draw</code> shows them.</p>"
    for row in pictures:
        figures = []
        for caption, image in row:
            good, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
            if good:
                source = base64.b64encode(data.tobytes()).decode("ascii")
                figures.append(
                    f'<figure><img src="data:image/jpeg;base64,{source}" alt="{escape(caption)}">'
                    f"<figcaption>{escape(caption)}</figcaption></figure>"
                )
        if figures:
            yield f'<div class="row">{"".join(figures)}</div>'


def _ledger_plot(ledger: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG with one row a stage and output: error and limit on a logarithmic axis."""
    rows = [stage for stage in ledger if stage["limit"]]
    values = [v for stage in rows for v in (stage["against_float64"], stage["limit"]) if v]
    if not values:
        return "<p>Nothing to plot.</p>"
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    left, width, step = 300, 560, 20

    def x(value: float | None) -> float:
        place = math.log10(value) if value else (low if value == 0 else high)
        return left + width * (place - low) / max(high - low, 1)

    marks = []
    for index, stage in enumerate(rows):
        y = index * step + 14
        colour = "#1a7f37" if stage["passed"] else "#b3261e"
        label = escape(f"{stage['name']} · {stage['output']}")
        end, error = x(stage["limit"]), x(stage["against_float64"])
        marks.append(
            f'<text x="0" y="{y + 4}">{label}</text>'
            f'<line x1="{left}" x2="{end:.1f}" y1="{y}" y2="{y}" stroke="#d9dee3" stroke-width="10"/>'
            f'<circle cx="{error:.1f}" cy="{y}" r="5" fill="{colour}"><title>{_number(stage["against_float64"])}'
            f" of {_number(stage['limit'])}</title></circle>"
        )
    bottom = len(rows) * step + 18
    ticks = "".join(
        f'<text x="{x(10.0**power):.1f}" y="{bottom}" text-anchor="middle">1e{power}</text>'
        for power in range(low, high + 1)
    )
    return f'<svg width="900" height="{bottom + 8}" role="img">{"".join(marks)}{ticks}</svg>'


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
