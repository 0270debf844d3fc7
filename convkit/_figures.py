"""Plots as .svg and .png files, by matplotlib."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convkit.errors import EnvironmentProblem, SettingError, unwritten
from convkit.files import write_atomic

__all__ = ["check_plot", "drawn_figure"]

FORMATS = ("svg", "png")
_DPI = 120


def check_plot(file: Path) -> None:
    """Check before the work that a plot can be written to a file.

    Raises:
        SettingError: its name does not end in .svg or .png.
        EnvironmentProblem: matplotlib is not installed.
    """
    if file.suffix.lower().lstrip(".") not in FORMATS:
        raise SettingError(f"{file} is neither an .svg nor a .png file.", hint="Give a name that ends in .svg or .png.")
    if importlib.util.find_spec("matplotlib") is None:
        raise EnvironmentProblem(
            "A plot needs matplotlib, which is not installed.", hint='pip install "convkit[report]"'
        )


@contextmanager
def drawn_figure(file: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Yield a matplotlib figure of that size in inches to draw on; it is then written to the file, whole or not at all.

    Raises:
        SettingError, EnvironmentProblem: see `check_plot`.
        OutputError, EnvironmentProblem: the file cannot be written.
    """
    check_plot(file)
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "convkit", "font.size": 9}):
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        yield figure
        kind = file.suffix.lower().lstrip(".")
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    try:
        write_atomic(file, buffer.getvalue())
        file.chmod(0o644)
    except OSError as error:
        raise unwritten(file, error, "Give another file.") from error
