"""The node tests of the ONNX standard: models of one operator, with inputs and the outputs that are right.

ONNX computes them anew at each import, which takes a quarter of a minute; they are kept beside pytest's cache.
"""

from __future__ import annotations

import fcntl
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper
from support.every_case import EVERY_CASE

__all__ = ["NodeTest", "difference", "node_tests", "some_node_tests"]

CACHE = Path(__file__).parents[2] / ".pytest_cache" / "onnx-node-tests"
_NARROW = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Types of 16 bits, with the distance of two numbers next to 1; the standard prints such values in float32's limits."""
RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
                    "RandomUniformLike"})  # fmt: skip


@dataclass(frozen=True)
class NodeTest:
    """One test: the serialised model, and (inputs, right outputs) by name."""

    name: str
    content: bytes
    data: tuple[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], ...]
    rtol: float
    atol: float

    @cached_property
    def model(self) -> onnx.ModelProto:
        return onnx.ModelProto.FromString(self.content)

    @property
    def random(self) -> bool:
        """Whether the outputs differ from run to run, by the name of an operator or by training."""
        nodes = [*self.model.graph.node, *(node for inner in self.model.functions for node in inner.node)]
        return any(node.op_type in RANDOM for node in nodes) or self.name.startswith("test_training_dropout")


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _generated() -> list[NodeTest]:
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = loader.load_model_tests(kind="node")
    tests = []
    for case in cases:
        graph = case.model.graph
        if not all(value.type.HasField("tensor_type") for value in (*graph.input, *graph.output)):
            continue
        data = tuple(
            ({value.name: _array(item) for value, item in zip(graph.input, inputs, strict=False)},
             {value.name: _array(item) for value, item in zip(graph.output, outputs, strict=False)})
            for inputs, outputs in case.data_sets
        )  # fmt: skip
        tests.append(NodeTest(case.name, case.model.SerializeToString(), data, case.rtol, case.atol))
    return tests


@lru_cache
def node_tests() -> tuple[NodeTest, ...]:
    """Return the tests whose inputs and outputs are tensors."""
    file = CACHE / f"{onnx.__version__}-{np.__version__}.pickle"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers would compute them twice
        if not file.exists():
            with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as part:
                pickle.dump(_generated(), part)
            Path(part.name).replace(file)
    with file.open("rb") as stream:
        return tuple(pickle.load(stream))


def some_node_tests() -> list[NodeTest]:
    """Return every other test, and each that has an operator which those lack; all where every case is asked for."""
    tests = node_tests()
    chosen = set(range(0, len(tests), 1 if EVERY_CASE else 2))
    seen = {node.op_type for place in chosen for node in tests[place].model.graph.node}
    for place, test in enumerate(tests):
        operators = {node.op_type for node in test.model.graph.node}
        if not operators <= seen:
            chosen.add(place)
            seen |= operators
    return [tests[place] for place in sorted(chosen)]


def difference(expected: np.ndarray, found: np.ndarray, rtol: float, atol: float) -> str:
    """Return in what two arrays differ by more than rounding, an empty text if they do not.

    Where the standard's value is bfloat16, float32 stands for it too: NumPy has no such type.
    """
    kinds = {expected.dtype, np.dtype(np.float32)} if expected.dtype == ml_dtypes.bfloat16 else {expected.dtype}
    if found.dtype not in kinds:
        return f"{found.dtype} where {expected.dtype} is right"
    if found.shape != expected.shape:
        return f"shape {found.shape} where {expected.shape} is right"
    if expected.dtype.kind in "OSUT":
        return "" if (found == expected).all() else "other texts"
    step = _NARROW.get(expected.dtype.name, 0.0)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    right, given = expected.astype(wide), found.astype(wide)
    close = np.isclose(given, right, rtol=max(rtol, 2 * step), atol=max(atol, step / 4 if step else 0), equal_nan=True)
    if close.all():
        return ""
    place = tuple(int(index) for index in np.argwhere(~close)[0]) if close.ndim else ()
    return (
        f"{int((~close).sum())} of {close.size} values, at {list(place)} {given[place]} where {right[place]} is right"
    )
