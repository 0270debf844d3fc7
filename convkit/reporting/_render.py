"""Reports as HTML: one file without scripts or outside references, for people."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.reporting._context import context_of, title_of
from convkit.reporting._parts import ReportParts
from convkit.results import DRAW_SCORE

if TYPE_CHECKING:
    import jinja2

__all__ = ["render", "render_report"]

SECTIONS = (
    ("results", "results"), ("ledger", "ledger"), ("layers", "layers"), ("changes", "changes"), ("latency", "latency"),
    ("sizes", "sizes"), ("checks", "checks"), ("model", "model"), ("settings", "settings"), ("made", "made with"),
)  # fmt: skip


def render_report(manifest: Mapping[str, Any], verdict: Mapping[str, Any], parts: ReportParts | None = None) -> str:
    """Return the report of an artifact as HTML.

    ``manifest`` and ``verdict`` are the JSON documents of the artifact; ``parts`` is what else is known.
    """
    one = context_of(manifest, verdict, parts or ReportParts())
    return render("report.html.jinja", title=title_of(manifest), one=one, sections=SECTIONS)


def render(template: str, **context: Any) -> str:
    """Return a template as text; every value is escaped."""
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["draw_score"] = DRAW_SCORE
    return environment
