"""The probes of plugins with what they have to compute: PyTorch in float64, which ONNX Runtime confirms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convkit.backends import EngineProbe, open_session
from convkit.doctor.tensorrt._host import MACHINE
from convkit.doctor.tensorrt._steps import PASSED, WRONG, Steps
from convkit.doctor.tensorrt._trial import Subject
from convkit.errors import blamed_on

if TYPE_CHECKING:
    import onnx

__all__ = ["DTYPES", "ReadyProbe", "prepare"]

DTYPES = ("float32", "float16")
_CLOSE = 1e-4
"""What ONNX Runtime in float32 may differ from float64, as a part of the largest value."""

Cases = Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class ReadyProbe:
    """A probe, its models by element type, and its inputs with the outputs that they have to give."""

    probe: EngineProbe
    models: Mapping[str, onnx.ModelProto]
    cases: Cases

    def subject(self, name: str, dtype: str, model: onnx.ModelProto, options: Mapping[str, object]) -> Subject:
        """Return what is tried: ``model`` is this probe's of a ``dtype``, fitted to an engine."""
        low, best, high = self.probe.batches
        ranges = {
            name: ((low, *value.shape[1:]), (best, *value.shape[1:]), (high, *value.shape[1:]))
            for name, value in self.cases[0][0].items()
        }
        plain = {name: value.astype(dtype) for name, value in self.cases[0][0].items()}
        return Subject(
            name, f"{self.probe.name}, {dtype}", model, dtype, self.cases, ranges if low < high else {}, [plain],
            options, self.probe.timed,
        )  # fmt: skip


def prepare(steps: Steps, probe: EngineProbe, folder: Path) -> ReadyProbe | None:
    """Return a probe with its expected outputs, or None where those are in doubt: the step says why."""
    import onnx

    prepared = None
    with steps.step(MACHINE, "reference", probe.name) as step:
        with blamed_on(f"probe {probe.name!r}"):
            models = {dtype: onnx.shape_inference.infer_shapes(probe.model(dtype)) for dtype in (*DTYPES, "float64")}
            low, best, high = probe.batches
            feeds = [probe.inputs(batch) for batch in dict.fromkeys((best, low, high))]
        exact = _run(models["float64"], "torch", feeds, "float64", folder)
        other = _run(models["float32"], "onnxruntime", feeds, "float32", folder)
        error = max(
            float(np.abs(mine[name] - theirs[name]).max(initial=0) / (np.abs(mine[name]).max(initial=0) or 1))
            for mine, theirs in zip(exact, other, strict=True)
            for name in mine
        )
        said = f"PyTorch in float64 and ONNX Runtime in float32 differ by {error:.1e} of the largest value"
        step.set(PASSED if error <= _CLOSE else WRONG, said, error=error if np.isfinite(error) else None)
        if step.state == PASSED:
            prepared = ReadyProbe(probe, models, list(zip(feeds, exact, strict=True)))
    return prepared


def _run(
    model: onnx.ModelProto, backend: str, feeds: Sequence[Mapping[str, np.ndarray]], dtype: str, folder: Path
) -> list[dict[str, np.ndarray]]:
    import onnx

    file = folder / f"{backend}.onnx"
    onnx.save(model, str(file))
    session = open_session(backend, file)
    try:
        return [session.run({name: value.astype(dtype) for name, value in feed.items()}) for feed in feeds]
    finally:
        session.close()
