"""The plots of a report as coordinates, which the templates write as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MOST_LAYERS", "LayersPlot", "LedgerPlot", "layers_plot", "ledger_plot", "number"]

_LEFT, _WIDTH, _STEP = 300.0, 560.0, 20.0
_LAYERS_LEFT, _LAYERS_WIDTH, _LAYERS_HEIGHT, _STRIP = 56.0, 900.0, 220.0, 26.0
MOST_LAYERS = 2400
"""Nodes that are drawn: about 700 bytes each."""


def number(value: float | None) -> str:
    """Return a figure as text; None stands for one that is not finite."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.3g}"


@dataclass(frozen=True)
class _Decades:
    """A logarithmic axis over whole decades, of a length from a start on."""

    low: int
    high: int
    start: float
    length: float

    @classmethod
    def of(cls, values: Iterable[float], start: float, length: float) -> _Decades | None:
        """Return the axis that contains the positive values; None where there are none."""
        logs = [math.log10(value) for value in values if value > 0 and math.isfinite(value)]
        if not logs:
            return None
        low, high = math.floor(min(logs)), math.ceil(max(logs))
        return cls(low, max(high, low + 1), start, length)

    def place(self, value: float | None) -> float:
        """Return where a value lies: zero at the low end, one that is not finite at the high end."""
        if value is None or not math.isfinite(value):
            share = 1.0
        else:
            share = (math.log10(value) - self.low) / (self.high - self.low) if value > 0 else 0.0
        return self.start + self.length * min(max(share, 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the places of the decades with their names; every few where there are many."""
        step = -(-(self.high - self.low) // 8)
        return [(self.place(10.0**power), f"1e{power}") for power in range(self.low, self.high + 1, step)]


@dataclass(frozen=True)
class LedgerPlot:
    """A row for each stage and output: label, middle, end of the limit, place of the error, state, tooltip."""

    width: float
    height: float
    left: float
    rows: tuple[tuple[str, float, float, float, str, str], ...]
    ticks: tuple[tuple[float, str], ...]


def ledger_plot(ledger: Sequence[Mapping[str, Any]]) -> LedgerPlot | None:
    """Return the plot of the stages that have a limit; None where there are none."""
    stages = [stage for stage in ledger if stage["limit"]]
    axis = _Decades.of((v for s in stages for v in (s["against_float64"], s["limit"]) if v), _LEFT, _WIDTH)
    if axis is None:
        return None
    rows = []
    for index, stage in enumerate(stages):
        error, limit = stage["against_float64"], stage["limit"]
        note = f"\n{stage['note']}" if stage.get("note") else ""
        rows.append(
            (
                f"{stage['name']} · {stage['output']}",
                index * _STEP + 14,
                axis.place(limit),
                axis.place(error),
                "ok" if stage["passed"] else "fail",
                f"{stage['name']}, {stage['output']}: {number(error)} of {number(limit)}{note}",
            )
        )
    return LedgerPlot(_LEFT + _WIDTH + 40, len(rows) * _STEP + 30, _LEFT, tuple(rows), tuple(axis.ticks()))


@dataclass(frozen=True)
class LayersPlot:
    """The nodes along the network: a strip of their types, and points for errors over it where they are known.

    ``cells`` are x, width, class and tooltip; ``points`` x, y, class and tooltip; ``lines`` are paths by class.
    """

    width: float
    height: float
    strip: float
    cells: tuple[tuple[float, float, str, str], ...]
    points: tuple[tuple[float, float, str, str], ...]
    lines: tuple[tuple[str, str], ...]
    ticks: tuple[tuple[float, str], ...]
    left_out: int


def layers_plot(layers: Sequence[Mapping[str, Any]], most: int = MOST_LAYERS) -> LayersPlot | None:
    """Return the plot of the first ``most`` nodes in the order of the graph; None for none.

    A layer has ``node``, ``operator``, ``module``, ``dtype`` and ``reason`` (why it stayed float32), and where it was
    measured ``local``, ``accumulated`` and ``limit``: relative errors, None for one that is not finite.
    """
    shown = layers[:most]
    if not shown:
        return None
    width = _LAYERS_WIDTH / len(shown)
    measured = [layer for layer in shown if "local" in layer]
    errors = (v for layer in measured for v in (layer["local"], layer["accumulated"], layer["limit"]) if v)
    axis = _Decades.of(errors, _LAYERS_HEIGHT, -(_LAYERS_HEIGHT - 10))
    strip = _LAYERS_HEIGHT + 12 if axis else 8.0
    cells, points = [], []
    path: list[str] = []
    for index, layer in enumerate(shown):
        x = _LAYERS_LEFT + index * width
        title = _title(layer)
        cells.append((x, width, css_class(layer["dtype"]), title))
        if axis and "local" in layer:
            limit = layer["limit"]
            over = layer["local"] is None or (limit is not None and layer["local"] > limit)
            points.append((x + width / 2, axis.place(layer["local"]), "fail" if over else "ok", title))
            path.append(f"{'L' if path else 'M'}{x + width / 2:.1f},{axis.place(layer['accumulated']):.1f}")
    return LayersPlot(
        _LAYERS_LEFT + _LAYERS_WIDTH + 10,
        strip + _STRIP + 8,
        strip,
        tuple(cells),
        tuple(points),
        (("accumulated", " ".join(path)),) if path else (),
        tuple(axis.ticks()) if axis else (),
        len(layers) - len(shown),
    )


def css_class(dtype: str) -> str:
    """Return the class of a type; those without a colour of their own are ``other``."""
    return dtype if dtype in ("float32", "float16", "bfloat16", "int8", "float64") else "other"


def _title(layer: Mapping[str, Any]) -> str:
    lines = [f"{layer['operator']} {layer['node']}", f"module {layer['module'] or 'not known'}", layer["dtype"]]
    if layer.get("reason"):
        lines.append(f"stays float32: {layer['reason']}")
    if "local" in layer:
        lines.append(f"errs {number(layer['local'])} by itself; {number(layer['limit'])} is explained")
        lines.append(f"accumulated {number(layer['accumulated'])}")
    return "\n".join(lines)
