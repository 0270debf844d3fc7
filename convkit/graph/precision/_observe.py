"""What a graph computes on samples, tensor by tensor, one sample after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from convkit.errors import ConversionError, EnvironmentProblem, InputError
from convkit.graph.precision._types import model_types
from convkit.graph.precision._unfit import Range

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Feed",
    "Open",
    "Run",
    "float32_tensors",
    "observe",
    "open_onnxruntime",
    "outputs_of",
    "range_of",
    "ranges",
]

Feed = Mapping[str, np.ndarray]
"""The input arrays of one run, by name."""
Run = Callable[[Feed], Mapping[str, np.ndarray]]
"""Runs a graph: input arrays by name to output arrays by name."""
Open = Callable[["onnx.ModelProto"], Run]
"""Makes a model ready to run."""

_BLOCK = 1 << 17
"""Values that are looked at in one go: their copies stay in the processor's cache."""


def ranges(model: onnx.ModelProto, feeds: Iterable[Feed], *, open_graph: Open | None = None) -> dict[str, Range]:
    """Return the range of each float32 tensor of a graph on samples, by name.

    Infinities are left out, since they are infinite in any type. One sample at a time is held in memory, with the
    tensors of its run. ``open_graph`` runs the graph; it is ONNX Runtime on the CPU if left out.

    Raises:
        InputError: there are no samples.
        ConversionError: a tensor has values that are no numbers.
        EnvironmentProblem: the graph cannot be run here.
    """
    found: dict[str, Range] = {}
    for _, values in observe(model, float32_tensors(model), feeds, open_graph):
        for name, value in values.items():
            new = range_of(value)
            found[name] = found[name].joined(new) if name in found else new
    return found


def range_of(values: np.ndarray) -> Range:
    """Return the range of the finite float32 values of an array; it is empty (0 to 0) if there are none."""
    flat = np.ravel(values)
    total = Range(0.0, 0.0, float("inf"))
    parts = [_range_of_block(flat[start : start + _BLOCK]) for start in range(0, flat.size, _BLOCK)]
    known = [part for part in parts if part is not None]
    for index, part in enumerate(known):
        total = total.joined(part) if index else part
    return total


def _range_of_block(values: np.ndarray) -> Range | None:
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        values = values[np.isfinite(values)]
        if not values.size:
            return None
        low, high = values.min(), values.max()
    # Without its sign, a float32 is ordered as its bits are; 0 becomes the largest number when 1 is taken from it.
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32) << np.uint32(1)
    bits -= np.uint32(1)
    smallest = (int(bits.min()) + 1) % (1 << 32) >> 1
    magnitude = np.array(smallest, np.uint32).view(np.float32)
    return Range(float(low), float(high), float(magnitude) or float("inf"))


def float32_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the names of the float32 tensors that the inputs and nodes of a graph make, in order."""
    from onnx import TensorProto

    types = model_types(model)
    held = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in held]
    names += [name for node in model.graph.node for name in node.output if node.op_type != "Constant"]
    return [name for name in names if types.get(name) == TensorProto.FLOAT]


def observe(
    model: onnx.ModelProto, names: Collection[str], feeds: Iterable[Feed], open_graph: Open | None = None
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield for each sample its number and the tensors ``names``, as arrays, inputs of the graph among them.

    Raises:
        InputError: there are no samples.
        ConversionError: a tensor has values that are no numbers.
        EnvironmentProblem: the graph cannot be run here.
    """
    given = {value.name for value in model.graph.input}
    with outputs_of(model, [name for name in names if name not in given]) as asked:
        run = (open_graph or open_onnxruntime)(asked)
    number = -1
    for number, feed in enumerate(feeds):
        made = run(feed)
        values = {name: np.asarray(feed[name] if name in given else made[name]) for name in names}
        for name, value in values.items():
            _check_numbers(name, value, number)
        yield number, values
    if number < 0:
        raise InputError("There are no samples to run the graph on.", hint="Give at least one input.")


def _check_numbers(name: str, values: np.ndarray, number: int) -> None:
    # A sum is no number if a value is none; that of numbers is none only if it overflows in both directions.
    with np.errstate(all="ignore"):
        total = values.sum() if values.dtype.kind == "f" else 0
    if np.isnan(total) and np.isnan(values).any():
        raise ConversionError(
            f"The tensor {name!r} has values that are no numbers (NaN) on sample {number}.",
            hint="The network does not work on this input, or its weights are damaged: look at the sample and at"
            " `convkit inspect`.",
        )


@contextmanager
def outputs_of(model: onnx.ModelProto, names: Collection[str]) -> Iterator[onnx.ModelProto]:
    """Let a model have these tensors as outputs within a block: a copy would hold all its weights."""
    import onnx
    from onnx import helper

    types, own = model_types(model), onnx.GraphProto(output=model.graph.output).output
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, types[name], None) for name in names)
    try:
        yield model
    finally:
        del model.graph.output[:]
        model.graph.output.extend(own)


def open_onnxruntime(model: onnx.ModelProto) -> Run:
    """Return ONNX Runtime on the CPU for a model.

    Raises:
        EnvironmentProblem: ONNX Runtime cannot load the model.
    """
    from convkit._onnxruntime import ONNXRUNTIME_ERRORS, onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A quantised graph is to be computed as it is written, not with int8 products that overflow on some processors.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except ONNXRUNTIME_ERRORS as error:
        raise EnvironmentProblem(
            f"ONNX Runtime cannot run the graph: {str(error).strip().splitlines()[0]}",
            hint="Deformable convolutions need ONNX Runtime 1.25 or newer; `convkit doctor` shows the version.",
        ) from error
    names = [output.name for output in session.get_outputs()]
    wanted = [value.name for value in session.get_inputs()]

    def run(feed: Feed) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session.run(names, {name: feed[name] for name in wanted}), strict=True))
        except ONNXRUNTIME_ERRORS as error:
            shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feed.items())
            raise ConversionError(
                f"ONNX Runtime cannot run the graph on {shapes}: {str(error).strip().splitlines()[0]}",
                hint="The samples must have the names, types and sizes of the model's inputs.",
            ) from error

    return run
