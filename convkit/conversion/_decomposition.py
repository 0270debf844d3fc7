"""What PyTorch's exporter does to a captured graph before it translates it, without tracing it a second time."""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["quick_exports"]

_NEW = {
    "aten.add.Tensor",
    "aten.all.dim",
    "aten.amax.default",
    "aten.argmin.default",
    "aten.batch_norm.default",
    "aten.cat.default",
    "aten.conv1d.default",
    "aten.conv2d.default",
    "aten.conv3d.default",
    "aten.conv_transpose2d.input",
    "aten.div.Tensor",
    "aten.eq.Tensor",
    "aten.floor_divide.default",
    "aten.gather.default",
    "aten.ge.Scalar",
    "aten.ge.Tensor",
    "aten.gt.Scalar",
    "aten.le.Scalar",
    "aten.le.Tensor",
    "aten.linear.default",
    "aten.logical_and.default",
    "aten.max_pool2d.default",
    "aten.mean.dim",
    "aten.mul.Tensor",
    "aten.relu.default",
    "aten.sigmoid.default",
    "aten.silu.default",
    "aten.stack.default",
    "aten.sub.Tensor",
    "aten.sum.dim_IntList",
    "aten.tanh.default",
    "aten.to.dtype",
    "aten.topk.default",
    "aten.upsample_nearest2d.vec",
    "aten.where.ScalarOther",
    "aten.where.self",
    "aten.zeros_like.default",
}
"""Operators that PyTorch decomposes as `_settle` does, or not at all, and whose results share no memory."""

_VIEWS = {
    "<built-in function getitem>",
    "aten._assert_tensor_metadata.default",
    "aten.expand.default",
    "aten.flatten.using_ints",
    "aten.permute.default",
    "aten.select.int",
    "aten.slice.Tensor",
    "aten.squeeze.dim",
    "aten.transpose.int",
    "aten.unsqueeze.default",
    "aten.view.default",
}
"""Others that PyTorch decomposes so; their results may share memory with what they read."""

_SIZES = {
    "<built-in function add>",
    "<built-in function floordiv>",
    "<built-in function mul>",
    "<built-in function sub>",
    "aten.sym_size.int",
}
"""What computes sizes, of which PyTorch decomposes none."""

_IN_PLACE = {"aten.relu_.default": "relu", "aten.sigmoid_.default": "sigmoid", "aten.silu_.default": "silu"}
"""What writes over what it reads, and the operator that computes the same anew."""

_SETTLED = {"aten.batch_norm.default", "aten.conv_transpose2d.input", "aten.flatten.using_ints", "aten.to.dtype"}
"""Other operators that `_settle` replaces."""

_NO_MODULE = "_empty_nn_module"
"""The module of what reads a size, as PyTorch names it."""

_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def quick_exports(translations: Collection[Callable[..., Any]] = ()) -> Iterator[None]:
    """Spare ``torch.onnx.export`` to run a captured graph twice more while the context is open, with the same result.

    It traces the graph again to replace operators without a translation and those that write over their input, and
    runs it again to see which numbers are to be cast. Sizes that vary make both slow. A graph of well-known operators
    is settled in place instead, by a few rules; all others are left to PyTorch. What a node returns is known from then.
    Axes that ``flatten`` joins have the size -1 where PyTorch would multiply sizes in the graph.
    ``translations`` names the operators that a plugin translates: they stay.
    """
    import torch

    with _ONE_AT_A_TIME:
        decompose, run = torch.export.ExportedProgram.run_decompositions, torch.fx.Interpreter.run_node
        known: dict[torch.fx.Node, tuple[Any, ...]] = {}

        def run_decompositions(self: torch.export.ExportedProgram, *args: Any, **kwargs: Any) -> Any:
            table = args[0] if args else kwargs.get("decomp_table")
            if isinstance(table, Mapping) and _well_known(self.graph_module.graph, table, translations):
                _settle(self.graph_module)
            else:
                self = decompose(self, *args, **kwargs)
            calls = (node for node in self.graph_module.graph.nodes if node.op == "call_function")
            known.update({node: (node.target, node.args, node.kwargs) for node in calls if "val" in node.meta})
            return self

        def run_node(self: torch.fx.Interpreter, n: torch.fx.Node) -> Any:
            return n.meta["val"] if known.get(n) == (n.target, n.args, n.kwargs) else run(self, n)

        torch.export.ExportedProgram.run_decompositions = run_decompositions  # type: ignore[method-assign]
        torch.fx.Interpreter.run_node = run_node  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.export.ExportedProgram.run_decompositions = decompose  # type: ignore[method-assign]
            torch.fx.Interpreter.run_node = run  # type: ignore[method-assign]


def _well_known(graph: torch.fx.Graph, table: Mapping[Any, Any], translations: Collection[Any]) -> bool:
    """Tell whether the rules here make of a graph what PyTorch would; ``table`` holds what is to be decomposed."""
    import torch

    aten = torch.ops.aten
    results = (aten._native_batch_norm_legit_no_training, aten.convolution, aten.view, aten._to_copy)
    if any(operator.default in table for operator in results):
        return False
    outputs, sizes = set(graph.output_node().all_input_nodes), _sizes(graph)
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        target, name, arguments = node.target, str(node.target), node.args
        if node.op != "call_function":
            return False
        settled = name in _SETTLED or name in _IN_PLACE
        if name in _IN_PLACE:
            known = getattr(aten, _IN_PLACE[name]).default not in table and _alone(node)
        elif name == "aten.batch_norm.default":  # an output would lose its name
            known = None not in arguments[3:5] and arguments[5] is False and node not in outputs
        elif name == "aten.flatten.using_ints":
            value, source = node.meta["val"], arguments[0].meta["val"]
            known = value.ndim < source.ndim and len([size for size in value.shape if not _plain(size, sizes)]) <= 1
        elif name in _SIZES:
            known = isinstance(node.meta.get("val"), torch.SymInt)
        elif name == "aten.to.dtype":
            known = len(arguments) == 2 and arguments[1] != arguments[0].meta["val"].dtype
        else:
            known = settled or ((name in _NEW or name in _VIEWS or target in translations) and target not in table)
        if not known or (settled and (target in translations or node.kwargs)):
            return False
    return True


def _sizes(graph: torch.fx.Graph) -> dict[str, tuple[torch.fx.Node, int]]:
    """Return the input and the axis of each size that varies."""
    found: dict[str, tuple[torch.fx.Node, int]] = {}
    for node in graph.find_nodes(op="placeholder"):
        for axis, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
            if type(size) is not int:
                found.setdefault(str(size), (node, axis))
    return found


def _plain(size: int | torch.SymInt, sizes: Collection[str]) -> bool:
    """Tell whether a size is a number or that of an axis of an input."""
    return isinstance(size, int) or str(size) in sizes


def _alone(node: torch.fx.Node) -> bool:
    """Tell whether nothing else sees what ``node`` writes over but those who read it later."""
    source: Any = node.args[0]
    plain = _NEW | _IN_PLACE.keys()
    return str(source.target) in plain and all(str(user.target) in plain for user in source.users)


def _settle(module: torch.fx.GraphModule) -> None:
    """Replace operators that write over their input and those that PyTorch decomposes, in place."""
    import torch

    aten = torch.ops.aten
    latest: dict[torch.fx.Node, torch.fx.Node] = {}  # what was written over, and what holds it since
    sizes, extents, inputs = _sizes(module.graph), {}, list(module.graph.find_nodes(op="placeholder"))

    def extent(size: int | torch.SymInt) -> int | torch.fx.Node:
        """Return a number, or the node that reads it from an input: one for all who ask."""
        if isinstance(size, int):
            return size
        if str(size) not in extents:
            with module.graph.inserting_after(inputs[-1]):
                extents[str(size)] = module.graph.call_function(aten.sym_size.int, sizes[str(size)])
            stack = {_NO_MODULE: (_NO_MODULE, _NO_MODULE)}
            extents[str(size)].meta.update(val=size, nn_module_stack=stack)
        return extents[str(size)]

    for node in module.graph.nodes:
        name = str(node.target)
        for source in node.all_input_nodes:
            if source in latest:
                node.replace_input_with(source, latest[source])
        if name in _IN_PLACE:
            written = node.args[0]
            node.target = getattr(aten, _IN_PLACE[name]).default
            latest.update({old: node for old, new in latest.items() if new is written})
            latest[written] = node
        elif name == "aten.batch_norm.default":
            tensor, weight, bias, mean, variance, _, momentum, eps, *_ = node.args
            node.target = aten._native_batch_norm_legit_no_training.default
            node.args = (tensor, weight, bias, mean, variance, momentum, eps)
            with module.graph.inserting_after(node):
                result = module.graph.call_function(operator.getitem, (node, 0))
            node.replace_all_uses_with(result, delete_user_cb=lambda user, result=result: user is not result)
            result.meta = dict(node.meta)
            value = node.meta["val"]
            node.meta = {**node.meta, "val": (value, value.new_empty(0), value.new_empty(0))}
        elif name == "aten.conv_transpose2d.input":
            defaults = (None, None, None, [1, 1], [0, 0], [0, 0], 1, [1, 1])
            given = (*node.args, *defaults[len(node.args) :])
            tensor, weight, bias, stride, padding, output_padding, groups, dilation = given
            node.target = aten.convolution.default
            node.args = (tensor, weight, bias, stride, padding, dilation, True, output_padding, groups)
        elif name == "aten.flatten.using_ints":
            node.target = aten.view.default
            shape = [extent(size) if _plain(size, sizes) else -1 for size in node.meta["val"].shape]
            node.args = (node.args[0], shape)
        elif name == "aten.to.dtype":
            node.target, node.args, node.kwargs = aten._to_copy.default, node.args[:1], {"dtype": node.args[1]}
    module.recompile()
