"""A graph that the user brings in place of the exported one: read, and compared with what the model takes and gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit._text import printable
from convkit.conversion._audit import audit
from convkit.conversion._export import check_graph
from convkit.errors import ArtifactError, ExportError, SettingError
from convkit.files import sha256
from convkit.graph import read_names
from convkit.inspection import GraphPrecision, graph_precision, graph_stats, open_graph
from convkit.model import BATCH, PRECISIONS, ModelSpec, Precision, TensorSpec, resolve

if TYPE_CHECKING:
    import onnx

__all__ = ["BroughtGraph", "check_edges", "read_graph"]

_QUANTIZERS = ("DequantizeLinear", "QuantizeLinear")
_NARROW = ("fp16", "bf16")


@dataclass(frozen=True)
class BroughtGraph:
    """An ONNX file of the user's, and the precision that it was found to have."""

    name: str
    sha256: str
    model: onnx.ModelProto
    precision: Precision

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {"file": self.name, "sha256": self.sha256}


def read_graph(path: Path, asked: str = "") -> BroughtGraph:
    """Return the graph of an ONNX file with its precision: int8 where it quantises, else what most of it computes in.

    Raises:
        ArtifactError: there is no such file, it contains no graph, or ONNX's checker refuses that.
        ConversionError: most of it is float32 though another precision was ``asked``.
        SettingError: it has another precision than the one that was asked for.
    """
    if path.is_dir():
        raise ArtifactError(f"{printable(path.name)} is a folder.", hint="Give an .onnx file.")
    model = open_graph(path).model
    _sort_nodes(model.graph)
    try:
        check_graph(model)
    except ExportError as error:
        raise ArtifactError(
            f"{printable(path.name)}: {error.message}", hint="The file is no valid ONNX: have its tool write it again."
        ) from error
    types = graph_precision(model, graph_stats(model, {}))
    found = _precision(model, types)
    if asked and asked != found.name:
        raise SettingError(
            f"{printable(path.name)} is {found.name}, and {asked} was asked for.",
            hint=f"Leave --precision out, or bring a graph in {asked}.",
        )
    if asked and found.name != "fp32":
        audit(types, found, ())
    return BroughtGraph(printable(path.name), sha256(path), model, found)


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Put nodes behind those whose results they read, as ONNX wants it and some tools do not write it."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = [{makers[name] for name in read_names(node) if name in makers} for node in graph.node]
    if all(max(found, default=-1) < place for place, found in enumerate(needs)):
        return
    order = TopologicalSorter({place: sorted(found) for place, found in enumerate(needs)})
    try:
        nodes = [graph.node[place] for place in order.static_order()]
    except CycleError as error:
        raise ArtifactError("Nodes of the graph read each other's results.", hint="The file is damaged.") from error
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _precision(model: onnx.ModelProto, types: GraphPrecision) -> Precision:
    if any(node.op_type in _QUANTIZERS for node in model.graph.node):
        return PRECISIONS["int8"]
    narrow = max((PRECISIONS[name] for name in _NARROW), key=lambda each: types.nodes.get(each.dtype, 0))
    return narrow if types.nodes.get(narrow.dtype) else PRECISIONS["fp32"]


def check_edges(spec: ModelSpec, graph: BroughtGraph) -> None:
    """Do nothing for a graph with the inputs and outputs of the model: names, types, and shapes where it states them.

    Raises:
        ArtifactError: they are others.
    """
    held = {tensor.name for tensor in graph.model.graph.initializer}
    inputs = [value for value in graph.model.graph.input if value.name not in held]
    for kind, wanted, values in (
        ("input", spec.inputs, inputs),
        ("output", spec.outputs, list(graph.model.graph.output)),
    ):
        found = {value.name: value for value in values}
        missing = [tensor.name for tensor in wanted if tensor.name not in found]
        extra = sorted(set(found) - {tensor.name for tensor in wanted})
        if missing or extra:
            raise ArtifactError(
                f"The {kind}s of {graph.name} are {_listed(found)}, and those of the model {_listed(_names(wanted))}.",
                hint=f"Give the graph the model's {kind}s, by these names; the order does not matter.",
            )
        for tensor in wanted:
            _check_edge(spec, graph.name, kind, tensor, found[tensor.name])


def _names(tensors: Iterable[TensorSpec]) -> list[str]:
    return [tensor.name for tensor in tensors]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in names) or "none"


def _check_edge(spec: ModelSpec, file: str, kind: str, tensor: TensorSpec, value: onnx.ValueInfoProto) -> None:
    from onnx import TensorProto

    what = f"The {kind} {tensor.name!r} of {file}"
    dtype = {"float": "float32", "double": "float64"}
    name = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    if dtype.get(name, name) != tensor.dtype:
        raise ArtifactError(
            f"{what} is {dtype.get(name, name)}, and the model's is {tensor.dtype}.",
            hint="Inputs and outputs keep the types of the model; cast inside of the graph.",
        )
    if not value.type.tensor_type.HasField("shape"):
        return
    stated = [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
    for corner in ("min", "opt", "max"):
        sizes = {BATCH: 1, **{dim.name: getattr(dim, corner) for dim in spec.dims}}
        shape = resolve(tensor.shape, sizes)
        if len(stated) != len(shape) or any(a not in (None, b) for a, b in zip(stated, shape, strict=True)):
            text = " x ".join("?" if size is None else str(size) for size in stated)
            raise ArtifactError(
                f"{what} is {text}, and the model's is {' x '.join(map(str, shape))} where"
                f" {', '.join(f'{dim.name} is {getattr(dim, corner)}' for dim in spec.dims)}.",
                hint="Say with --shape what the graph was made for, or bring one for these sizes.",
            )
