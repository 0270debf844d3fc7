"""Clean variants of the graph: the same function, written down in another way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from convkit._onnx_errors import onnx_errors
from convkit.backends import open_session
from convkit.graph import read_names
from convkit.self_test._clean import NotApplicableError, Variant
from convkit.self_test._graph import STANDARD, Graph
from convkit.self_test._subject import Subject

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["GRAPH_VARIANTS"]

Rewrite = Callable[[Graph], None]
GROUP = "graphs"
SEED = 0
SMALL = 256
"""Bytes below which a constant stays in the graph: what tells shapes has to."""
NEWER = 2
"""Opsets by which a graph is converted up."""


def _graph(name: str, rewrite: Rewrite) -> Variant:
    """Return the variant of a rewrite in place; a rewrite that changes nothing is not applicable."""

    def make(judge: Judge) -> Subject:
        graph = Graph(judge.model)
        changed = graph.changed(rewrite)
        if changed.graph.SerializeToString(deterministic=True) == _bare(judge.model):
            raise NotApplicableError("the graph has nothing of the kind")
        return judge.subject(changed)

    return Variant(name, GROUP, make)


def _bare(model: onnx.ModelProto) -> bytes:
    copy = onnx.GraphProto()
    copy.CopyFrom(model.graph)
    del copy.value_info[:]
    found: bytes = copy.SerializeToString(deterministic=True)
    return found


def _whole(name: str, rewrite: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Variant:
    """Return the variant of a model that a function makes of it; what onnx refuses is not applicable."""

    def make(judge: Judge) -> Subject:
        try:
            model = rewrite(judge.model)
        except onnx_errors() as error:
            raise NotApplicableError(f"onnx: {(str(error).splitlines() or ['no message'])[0]}") from error
        return judge.subject(model)

    return Variant(name, GROUP, make)


def _external(judge: Judge) -> Subject:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(judge.model)  # `save` moves the weights out of the model that it gets
        onnx.save(copy, str(path), save_as_external_data=True, location="weights.bin", size_threshold=SMALL)
        if not path.with_name("weights.bin").is_file():
            raise NotApplicableError("the graph has no weights")
        return Subject(session=open_session(judge.backend, path, device=judge.session.device))


def _upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import version_converter

    opset = next(item.version for item in model.opset_import if item.domain in STANDARD)
    foreign = {node.domain for node in model.graph.node if node.domain not in STANDARD}
    if foreign:
        raise NotApplicableError(f"onnx converts no nodes of {', '.join(sorted(foreign))}")
    newest = min(opset + NEWER, onnx.defs.onnx_opset_version())
    if newest == opset:
        raise NotApplicableError(f"opset {opset} is the newest that onnx knows")
    return version_converter.convert_version(model, newest)


def _through(form: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def written_and_read(model: onnx.ModelProto) -> onnx.ModelProto:
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"model.{form}"
            onnx.save(model, str(path), format=form)
            return onnx.load(str(path), format=form)

    return written_and_read


def _as_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with each Relu as a call of a function of the model's own."""
    opset = next(item for item in model.opset_import if item.domain in STANDARD)
    if not any(node.op_type == "Relu" and node.domain in STANDARD for node in model.graph.node):
        raise NotApplicableError("the graph has no Relu")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    body = [helper.make_node("Relu", ["x"], ["y"])]
    copy.functions.append(helper.make_function("convkit.self_test", "Rectify", ["x"], ["y"], body, [opset]))
    copy.opset_import.append(helper.make_opsetid("convkit.self_test", 1))
    copy.ir_version = max(copy.ir_version, 8)
    for node in copy.graph.node:
        if node.op_type == "Relu" and node.domain in STANDARD:
            node.op_type, node.domain = "Rectify", "convkit.self_test"
    return copy


def _constants_as_nodes(graph: Graph) -> None:
    tensors = list(graph.model.graph.initializer)
    del graph.model.graph.initializer[:]
    for number, tensor in enumerate(tensors):
        graph.nodes.insert(
            number, helper.make_node("Constant", [], [tensor.name], value=tensor, name=f"{tensor.name}/constant")
        )


def _constants_as_initializers(graph: Graph) -> None:
    for node in list(graph.of("Constant")):
        for attribute in node.attribute:
            if attribute.name == "value":
                tensor = onnx.TensorProto()
                tensor.CopyFrom(attribute.t)
                tensor.name = node.output[0]
                graph.model.graph.initializer.append(tensor)
                graph.nodes.remove(node)


def _shuffled(graph: Graph) -> None:
    """Put the nodes into another order in which each still follows what it reads."""
    rng = np.random.default_rng(SEED)
    waiting, done = list(graph.nodes), {""}
    done |= {value.name for value in graph.model.graph.input}
    done |= {tensor.name for tensor in graph.model.graph.initializer}
    ordered = []
    computed = {name for node in waiting for name in node.output}
    while waiting:
        ready = [node for node in waiting if all(name in done or name not in computed for name in read_names(node))]
        node = ready[int(rng.integers(len(ready)))]
        waiting.remove(node)
        ordered.append(node)
        done |= set(node.output)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.nodes[:]
    graph.nodes.extend(copies)


def _renamed(graph: Graph) -> None:
    """Give every inner value and every node another name."""
    if any(attribute.HasField("g") for node in graph.nodes for attribute in node.attribute):
        return  # subgraphs read values by name
    kept = {value.name for value in (*graph.model.graph.input, *graph.model.graph.output)} | {""}
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"v{len(names)}")

    for number, node in enumerate(graph.nodes):
        node.name = f"n{number}"
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for tensor in graph.model.graph.initializer:
        tensor.name = new(tensor.name)


def _identities(graph: Graph) -> None:
    for node in [node for node in graph.nodes if node.op_type in ("Conv", "Relu", "Gemm", "MatMul", "Add")]:
        graph.after(node.output[0], ("Identity", ()))


def _operands_exchanged(graph: Graph) -> None:
    for node in graph.of("Add", "Mul"):
        node.input[:] = list(node.input)[::-1]


def _relu_as_max(graph: Graph) -> None:
    zeros: dict[str, str] = {}
    for node in list(graph.of("Relu")):
        dtype = graph.dtype_near(node)
        if dtype and dtype not in zeros:
            zeros[dtype] = graph.add_constant(f"self-test/zero/{dtype}", _scalar(0, dtype))
        if dtype:
            node.CopyFrom(helper.make_node("Max", [node.input[0], zeros[dtype]], list(node.output), name=node.name))


def _scalar(value: float, dtype: str) -> np.ndarray:
    return np.array(value, helper.tensor_dtype_to_np_dtype(_TYPES[dtype]))


_TYPES = {
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
}


def _sigmoid_as_tanh(graph: Graph) -> None:
    """Write 1 / (1 + exp(-x)) as (1 + tanh(x / 2)) / 2."""
    for node in list(graph.of("Sigmoid")):
        dtype = graph.dtype_near(node)
        if dtype != "float32":
            continue
        name, (source,), (target,) = node.output[0], list(node.input), list(node.output)
        half = graph.add_constant(f"{name}/half", _scalar(0.5, dtype))
        steps = [
            helper.make_node("Mul", [source, half], [f"{name}/1"], name=f"{name}/1"),
            helper.make_node("Tanh", [f"{name}/1"], [f"{name}/2"], name=f"{name}/2"),
            helper.make_node("Mul", [f"{name}/2", half], [f"{name}/3"], name=f"{name}/3"),
            helper.make_node("Add", [f"{name}/3", half], [target], name=f"{name}/4"),
        ]
        position = list(graph.nodes).index(node)
        graph.nodes.remove(node)
        for number, step in enumerate(steps):
            graph.nodes.insert(position + number, step)


def _bias_apart(graph: Graph) -> None:
    """Add the bias of each convolution in a node of its own."""
    for node in list(graph.weighted("Conv", "ConvTranspose")):
        name = graph.bias(node)
        if not name:
            continue
        value = graph.constant(name)
        rank = graph.constant(node.input[1]).ndim
        shaped = graph.add_constant(f"{node.output[0]}/bias", value.reshape(-1, *[1] * (rank - 2)))
        del node.input[2:]
        graph.after(node.output[0], ("Add", (shaped,)))


def _inputs_reordered(graph: Graph) -> None:
    """Sum over the input channels of each convolution in another order."""
    rng = np.random.default_rng(SEED)
    for node in list(graph.weighted("Conv")):
        weight = graph.constant(node.input[1])
        if graph.attribute(node, "group", 1) != 1 or weight.shape[1] < 2:
            continue
        order = rng.permutation(weight.shape[1])
        index = graph.add_constant(f"{node.output[0]}/order", order.astype(np.int64))
        own = graph.add_constant(f"{node.output[0]}/weight", weight[:, order])
        gathered = f"{node.output[0]}/gathered"
        gather = helper.make_node("Gather", [node.input[0], index], [gathered], axis=1, name=gathered)
        node.input[0], node.input[1] = gathered, own
        graph.nodes.insert(list(graph.nodes).index(node), gather)


def _sums_in_halves(graph: Graph) -> None:
    """Sum over each half of the input channels of a convolution, and add the two."""
    for node in list(graph.weighted("Conv")):
        weight = graph.constant(node.input[1])
        half = weight.shape[1] // 2
        if graph.attribute(node, "group", 1) != 1 or half < 1:
            continue
        name, position = node.output[0], list(graph.nodes).index(node)
        sizes = graph.add_constant(f"{name}/sizes", np.array([half, weight.shape[1] - half], np.int64))
        parts = [f"{name}/input/0", f"{name}/input/1"]
        sums = [f"{name}/sum/0", f"{name}/sum/1"]
        added = [helper.make_node("Split", [node.input[0], sizes], parts, axis=1, name=f"{name}/Split")]
        for number, values in enumerate((weight[:, :half], weight[:, half:])):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{name}/Conv/{number}"
            own = graph.add_constant(f"{name}/weight/{number}", values)
            further = list(node.input)[2:] if number == 0 else []
            copy.input[:] = [parts[number], own, *further]
            copy.output[:] = [sums[number]]
            added.append(copy)
        added.append(helper.make_node("Add", sums, [name], name=f"{name}/Add"))
        graph.nodes.remove(node)
        for number, each in enumerate(added):
            graph.nodes.insert(position + number, each)


def _outputs_in_tiles(graph: Graph) -> None:
    """Compute the output channels of each convolution in two tiles."""
    for node in list(graph.weighted("Conv")):
        weight = graph.constant(node.input[1])
        half = weight.shape[0] // 2
        if graph.attribute(node, "group", 1) != 1 or half < 1:
            continue
        name, position, bias = node.output[0], list(graph.nodes).index(node), graph.bias(node)
        added, tiles = [], [f"{name}/tile/0", f"{name}/tile/1"]
        for number, rows in enumerate((slice(0, half), slice(half, None))):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{name}/Conv/{number}"
            inputs = [node.input[0], graph.add_constant(f"{name}/weight/{number}", weight[rows])]
            if bias:
                inputs.append(graph.add_constant(f"{name}/bias/{number}", graph.constant(bias)[rows]))
            copy.input[:] = inputs
            copy.output[:] = [tiles[number]]
            added.append(copy)
        added.append(helper.make_node("Concat", tiles, [name], axis=1, name=f"{name}/Concat"))
        graph.nodes.remove(node)
        for number, each in enumerate(added):
            graph.nodes.insert(position + number, each)


def _gemm_as_matmul(graph: Graph) -> None:
    for node in list(graph.weighted("Gemm")):
        plain = graph.attribute(node, "alpha", 1.0) == graph.attribute(node, "beta", 1.0) == 1.0
        if not plain or graph.attribute(node, "transA", 0):
            continue
        weight = graph.constant(node.input[1])
        own = graph.add_constant(f"{node.output[0]}/weight", weight.T if graph.attribute(node, "transB", 0) else weight)
        bias, output = list(node.input)[2:], node.output[0]
        node.CopyFrom(helper.make_node("MatMul", [node.input[0], own], [output], name=node.name))
        if bias:
            graph.after(output, ("Add", bias))


def _weights_in_float64(graph: Graph) -> None:
    """Store float32 weights as float64, with a Cast before their use."""
    for tensor in list(graph.model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        name = tensor.name
        wide = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), f"{name}/float64")
        tensor.CopyFrom(wide)
        graph.nodes.insert(
            0, helper.make_node("Cast", [wide.name], [name], to=onnx.TensorProto.FLOAT, name=f"{name}/Cast")
        )


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model)


def _forgotten(graph: Graph) -> None:
    """Drop names of nodes, metadata and documentation."""
    for node in graph.nodes:
        node.name, node.doc_string = "", ""
        del node.metadata_props[:]
    del graph.model.metadata_props[:]
    graph.model.graph.doc_string = ""


GRAPH_VARIANTS: tuple[Variant, ...] = (
    Variant("weights in a file of their own", GROUP, _external),
    _whole("written and read as text", _through("textproto")),
    _whole("written and read as JSON", _through("json")),
    _whole("a newer opset", _upgraded),
    _whole("shapes inferred", _inferred),
    _whole("activations as functions of the model", _as_function),
    _graph("constants as nodes", _constants_as_nodes),
    _graph("constant nodes as initializers", _constants_as_initializers),
    _graph("nodes in another order", _shuffled),
    _graph("other names", _renamed),
    _graph("names and metadata dropped", _forgotten),
    _graph("identities added", _identities),
    _graph("operands exchanged", _operands_exchanged),
    _graph("Relu as Max", _relu_as_max),
    _graph("Sigmoid as Tanh", _sigmoid_as_tanh),
    _graph("bias added apart", _bias_apart),
    _graph("Gemm as MatMul and Add", _gemm_as_matmul),
    _graph("weights stored as float64", _weights_in_float64),
    _graph("input channels in another order", _inputs_reordered),
    _graph("sums over two halves", _sums_in_halves),
    _graph("output channels in two tiles", _outputs_in_tiles),
)
"""Other ways to write the graph of an artifact."""
