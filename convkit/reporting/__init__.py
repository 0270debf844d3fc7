"""Reports of artifacts as HTML, and node data for viewers of graphs."""

from convkit.reporting._artifact import gather_parts
from convkit.reporting._bench_document import bench_of, read_bench
from convkit.reporting._compare import Side, render_comparison
from convkit.reporting._excerpt import excerpt, excerpts_of
from convkit.reporting._node_data import node_data
from convkit.reporting._parts import ReportParts, layers_of
from convkit.reporting._render import render_report

__all__ = [
    "ReportParts",
    "Side",
    "bench_of",
    "excerpt",
    "excerpts_of",
    "gather_parts",
    "layers_of",
    "node_data",
    "read_bench",
    "render_comparison",
    "render_report",
]
