"""What samples say of a float32 graph that gets another precision, and the rewrites that know it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from convkit.conversion._calibration import CalibrationInputs, CalibrationSet
from convkit.errors import SettingError
from convkit.graph import Rewrite, save_onnx
from convkit.graph.precision import Open, Range, To16Bit, ToInt8, calibrate, fake_quantised, find_method, ranges
from convkit.model import Precision
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["DEFAULT_METHOD", "Changes", "Wish", "measure_changes"]

DEFAULT_METHOD = "percentile"
YARDSTICK = ".yardstick.onnx"


@dataclass(frozen=True)
class Wish:
    """What was asked of a typed graph: its precision, and the nodes that stay float32 whatever samples say.

    With ``auto`` a search finds the nodes that have to. int8 is calibrated on ``calibration`` by ``method``.
    ``edges`` is the precision of inputs and outputs.
    """

    precision: Precision
    keep: frozenset[str] = frozenset()
    auto: bool = False
    calibration: CalibrationInputs | None = None
    method: str = DEFAULT_METHOD
    edges: str = "fp32"

    def __post_init__(self) -> None:
        find_method(self.method)
        if self.precision.rest and self.calibration is None:
            raise SettingError(
                f"{self.precision.name} needs inputs for calibration.",
                hint="Give a folder of inputs like those of later use: --calibrate DIR.",
            )


@dataclass(frozen=True)
class Changes:
    """What types a float32 graph: the range of each tensor and, for int8, the largest magnitudes to represent."""

    wish: Wish
    ranges: Mapping[str, Range]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    calibration: CalibrationSet | None = None

    def of(self, change: Rewrite, keep: Collection[str] = ()) -> Rewrite:
        """Return a rewrite of phase *precision* with what is known; ``keep`` are further nodes that stay float32."""
        kept = {*self.wish.keep, *keep}
        if isinstance(change, ToInt8):
            return ToInt8(self.thresholds, change.low.name, kept)
        return To16Bit(change.precision.name, kept, self.ranges) if isinstance(change, To16Bit) else change

    def write_yardstick(self, model: onnx.ModelProto, graph: Path, folder: Path) -> Path:
        """Return the file of the graph that PyTorch runs for the yardstick: ``graph``, which ``model`` is, itself.

        For int8 it is written below ``folder``, with its tensors rounded to int8 steps.
        """
        if not self.wish.precision.rest:
            return graph
        file = folder / YARDSTICK
        save_onnx(fake_quantised(model, self.thresholds, self.wish.keep), file)
        return file

    @staticmethod
    def forget_yardstick(folder: Path) -> None:
        """Remove what `write_yardstick` wrote."""
        for part in folder.glob(f"{YARDSTICK}*"):
            part.unlink()


def measure_changes(
    model: onnx.ModelProto,
    wish: Wish,
    feeds: Iterable[Mapping[str, np.ndarray]],
    open_graph: Open | None = None,
    progress: Progress = silent,
) -> Changes:
    """Run a float32 graph on ``feeds``, for int8 on the inputs for calibration, and return what types it.

    Raises:
        SettingError: the graph is 16-bit or quantised already.
        ConversionError: values are no numbers or overflow, or nothing can become int8.
        EnvironmentProblem: the graph cannot be run here.
    """
    if wish.calibration is None:
        progress("measuring the range of every tensor")
        return Changes(wish, ranges(model, feeds, open_graph=open_graph))
    found = calibrate(
        model, wish.calibration.announced(progress), method=wish.method, exclude=wish.keep, open_graph=open_graph
    )
    return Changes(wish, found.ranges, found.thresholds, wish.calibration.record(wish.method))
