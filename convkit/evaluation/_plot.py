"""The figures of each class as a picture."""

from __future__ import annotations

from pathlib import Path

from convkit._figures import check_plot, drawn_figure
from convkit.evaluation._report import EvaluationReport

__all__ = ["check_plot", "write_class_plot"]

_WIDTH, _ROW, _FRAME = 8.0, 0.22, 1.2


def write_class_plot(report: EvaluationReport, file: Path) -> None:
    """Draw the AP of each class that has annotations, the best of the first engine on top, a bar for each engine.

    Raises:
        SettingError, EnvironmentProblem: see `check_plot`.
        OutputError: the file cannot be written.
    """
    engines = list(report.classes)
    first = report.classes[engines[0]]
    shown = sorted((name for name, row in first.items() if row["AP"] >= 0), key=lambda name: first[name]["AP"])
    height = _FRAME + _ROW * max(len(shown), 1) * max(1.0, 0.6 * len(engines))
    with drawn_figure(file, (_WIDTH, height)) as figure:
        axes = figure.subplots()
        bar = 0.8 / len(engines)
        for index, engine in enumerate(engines):
            places = [row + (len(engines) / 2 - index - 0.5) * bar for row in range(len(shown))]
            values = [max(report.classes[engine].get(name, {}).get("AP", 0.0), 0.0) for name in shown]
            axes.barh(places, values, height=bar, label=f"{engine}: {report.figures[engine]['AP']:.3f}")
        axes.set_yticks(range(len(shown)), shown)
        axes.set_xlim(0, 1)
        axes.set_title(f"AP by class, {report.images} images", fontsize=9)
        axes.grid(visible=True, axis="x", alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
