"""Places for the nodes of a small graph: from top to bottom in layers, each node below what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Box", "GraphDrawing", "draw_graph"]

_LETTER, _PADDING = 6.6, 18.0
_HEIGHT, _ROW, _GAP, _MARGIN = 40.0, 74.0, 18.0, 10.0
_LONGEST = 30
"""Characters of a name that are shown; a tooltip has all."""


@dataclass(frozen=True)
class Box:
    """A node: its corner, width and height, what is written in it, and what its tooltip says."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    operator: str
    name: str
    title: str

    @property
    def middle(self) -> float:
        """The middle from left to right."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class GraphDrawing:
    """A drawn graph: its size, its nodes, and its edges as paths with the name of their tensor."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    edges: tuple[tuple[str, str], ...]


def draw_graph(part: Mapping[str, Any]) -> GraphDrawing:
    """Return the drawing of one side of an excerpt; an empty one has no boxes."""
    nodes, edges = part["nodes"], [(int(a), int(b), str(name)) for a, b, name in part["edges"]]
    if not nodes:
        return GraphDrawing(0, 0, (), ())
    levels = _levels(len(nodes), edges)
    rows = _ordered(levels, edges)
    widths = [_width(node) for node in nodes]
    widest = max(sum(widths[index] for index in row) + _GAP * (len(row) - 1) for row in rows)
    boxes: dict[int, Box] = {}
    for level, row in enumerate(rows):
        x = _MARGIN + (widest - sum(widths[index] for index in row) - _GAP * (len(row) - 1)) / 2
        for index in row:
            boxes[index] = _box(nodes[index], x, _MARGIN + level * _ROW, widths[index])
            x += widths[index] + _GAP
    paths = tuple((_path(boxes[a], boxes[b]), name) for a, b, name in edges)
    height = 2 * _MARGIN + (len(rows) - 1) * _ROW + _HEIGHT
    return GraphDrawing(widest + 2 * _MARGIN, height, tuple(boxes[index] for index in range(len(nodes))), paths)


def _levels(count: int, edges: Sequence[tuple[int, int, str]]) -> list[int]:
    """Return the layer of each node: one below the lowest of those that it reads."""
    levels = [0] * count
    for _ in range(count):  # as often as the longest chain may need; a graph of nodes in order needs one round
        before = list(levels)
        for a, b, _name in edges:
            levels[b] = max(levels[b], min(levels[a] + 1, count - 1))
        if levels == before:
            break
    return levels


def _ordered(levels: Sequence[int], edges: Sequence[tuple[int, int, str]]) -> list[list[int]]:
    """Return the nodes of each layer from left to right, each near the middle of those above that it reads."""
    rows: list[list[int]] = [[] for _ in range(max(levels) + 1)]
    for index, level in enumerate(levels):
        rows[level].append(index)
    rows = [row for row in rows if row]
    place: dict[int, float] = {}
    for row in rows:
        wanted = {}
        for position, index in enumerate(row):
            above = [place[a] for a, b, _name in edges if b == index and a in place]
            wanted[index] = sum(above) / len(above) if above else position / max(len(row), 1)
        row.sort(key=wanted.__getitem__)
        place |= {index: (position + 0.5) / len(row) for position, index in enumerate(row)}
    return rows


def _width(node: Mapping[str, Any]) -> float:
    return max(len(_first_line(node)), len(_short(node["name"])), 6) * _LETTER + _PADDING


def _first_line(node: Mapping[str, Any]) -> str:
    return " ".join([node["operator"], *node["weights"]])


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _box(node: Mapping[str, Any], x: float, y: float, width: float) -> Box:
    module = f"\nmodule {node['module']}" if node["module"] else ""
    kind = node["kind"]
    title = f"{node['operator']} {node['name']}{module}{chr(10) if kind else ''}{kind}"
    return Box(x, y, width, _HEIGHT, kind, _first_line(node), _short(node["name"]), title)


def _path(upper: Box, lower: Box) -> str:
    """Return an edge from the bottom of a box to the top of another one."""
    start, end = upper.y + upper.height, lower.y
    bend = max((end - start) / 2, 12.0)
    return (
        f"M{upper.middle:.1f},{start:.1f} C{upper.middle:.1f},{start + bend:.1f}"
        f" {lower.middle:.1f},{end - bend:.1f} {lower.middle:.1f},{end:.1f}"
    )
