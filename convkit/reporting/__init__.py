"""Reports of artifacts as HTML, and node data for viewers of graphs."""

from convkit.reporting._excerpt import excerpt, excerpts_of
from convkit.reporting._parts import ReportParts, bench_of, layers_of
from convkit.reporting._render import render_report

__all__ = ["ReportParts", "bench_of", "excerpt", "excerpts_of", "layers_of", "render_report"]
