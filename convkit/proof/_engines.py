"""Engine against engine through polygraphy: its runners, its Comparator, its saved results."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polygraphy.config
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from convkit.errors import unwritten
from convkit.files import write_atomic
from convkit.model import ModelSpec
from convkit.proof._computes import Compute
from convkit.proof._metrics import measure
from convkit.proof._rule import limits_of
from convkit.proof._verdict import Check

polygraphy.config.AUTOINSTALL_DEPS = False  # whatever the environment says: nothing is installed at run time

__all__ = ["compare_engines"]


class _Runner(BaseRunner):  # type: ignore[misc]
    """A polygraphy runner around a session."""

    def __init__(self, name: str, compute: Compute, spec: ModelSpec) -> None:
        super().__init__(name=name)
        self._compute = compute
        self._metadata = TensorMetadata()
        for tensor in spec.inputs:
            shape = [extent if isinstance(extent, int) else -1 for extent in tensor.shape]
            self._metadata.add(tensor.name, np.dtype(tensor.host_dtype), shape)

    def get_input_metadata_impl(self) -> Any:
        return self._metadata

    def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        start = time.perf_counter()
        outputs = OrderedDict(self._compute(feed_dict))
        self.inference_time = time.perf_counter() - start
        return outputs


def compare_engines(
    spec: ModelSpec,
    engines: Mapping[str, Compute],
    feeds: Mapping[str, Mapping[str, np.ndarray]],
    baselines: Mapping[str, Mapping[str, float]],
    reference: Compute,
    save: Path | None = None,
) -> tuple[list[Check], list[str]]:
    """Run every engine on the feeds of all cases and compare each with the first, output by output.

    Two engines may differ by twice the limit that each has against float64, the ``reference``. Where the first one
    misses that limit itself nothing is compared, and a note besides the checks says so. ``save`` is a JSON file for
    polygraphy's `RunResults`, which ``polygraphy inspect data`` and ``polygraphy run --load-outputs`` read.

    Raises:
        OutputError, EnvironmentProblem: the results cannot be saved.
    """
    runners = [_Runner(name, compute, spec) for name, compute in engines.items()]
    by_values = [output for output in spec.outputs if output.compare == "values"]
    limits = {
        output.name: limits_of(baselines[output.name], output.tolerance).get("max_abs", 0.0) for output in by_values
    }
    allowed = {name: 2 * limit for name, limit in limits.items()}
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(all="ignore"):  # it divides by zero and says so
        results = Comparator.run(runners, data_loader=list(feeds.values()))
        if save:
            _save(results, save)
        compared = Comparator.compare_accuracy(
            results,
            compare_func=[
                SimpleCompareFunc(rtol=0.0, atol={**allowed, "": float("inf")}, check_error_stat="max", fail_fast=False)
            ],
            comparisons=[(0, index) for index in range(1, len(runners))],
        )
    first, found = results[0]
    checks, missed = [], set()
    for (_, name), iterations in compared[0].items():
        for case, outputs, own in zip(feeds, iterations, found, strict=True):
            right = reference(feeds[case])
            for output in (each.name for each in by_values):
                if measure(right[output], own[output]).max_abs > limits[output]:
                    missed.add(output)
                else:
                    checks.append(_check(outputs[output], case, output, allowed[output], f"{name} against {first}"))
    note = f"{first} misses the limits itself, and was not compared where it does: {', '.join(sorted(missed))}"
    return checks, [note] if missed else []


def _check(result: Any, case: str, output: str, limit: float, note: str) -> Check:
    figure = float(result.max_absdiff) if hasattr(result, "max_absdiff") else float("inf")
    return Check("engines", case, output, bool(result), {"max_abs": figure}, {"max_abs": limit}, note)


def _save(results: Any, path: Path) -> None:
    try:
        write_atomic(path, results.to_json())
        path.chmod(0o644)
    except OSError as error:
        raise unwritten(path, error, "Give another --save-results file.") from error
