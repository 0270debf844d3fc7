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
    "aten.batch_norm.default",
    "aten.cat.default",
    "aten.conv1d.default",
    "aten.conv2d.default",
    "aten.conv3d.default",
    "aten.conv_transpose2d.input",
    "aten.div.Tensor",
    "aten.linear.default",
    "aten.max_pool2d.default",
    "aten.mul.Tensor",
    "aten.relu.default",
    "aten.sigmoid.default",
    "aten.silu.default",
    "aten.sub.Tensor",
    "aten.tanh.default",
    "aten.upsample_nearest2d.vec",
}
"""Operators that PyTorch decomposes as `_settle` does, or not at all, and whose results share no memory."""

_VIEWS = {
    "aten.expand.default",
    "aten.permute.default",
    "aten.slice.Tensor",
    "aten.transpose.int",
    "aten.unsqueeze.default",
    "aten.view.default",
}
"""Operators that stay, and whose results may share memory with what they read."""

_IN_PLACE = {"aten.relu_.default": "relu", "aten.sigmoid_.default": "sigmoid", "aten.silu_.default": "silu"}
"""What writes over what it reads, and the operator that computes the same anew."""

_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def quick_exports(translations: Collection[Callable[..., Any]] = ()) -> Iterator[None]:
    """Spare ``torch.onnx.export`` to run a captured graph twice more while the context is open, with the same result.

    It traces the graph again to replace operators without a translation and those that write over their input, and
    runs it again to see which numbers are to be cast. Sizes that vary make both slow. A graph of well-known operators
    is settled in place instead, by four rules; all others are left to PyTorch. What a node returns is known from then.
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
    made = (aten._native_batch_norm_legit_no_training.default, aten.convolution.default)
    if any(target in table for target in made):
        return False
    results = set(graph.output_node().all_input_nodes)
    for node in graph.nodes:
        target, name = node.target, str(node.target)
        if node.op in ("placeholder", "output"):
            continue
        if node.op != "call_function":
            return False
        if name in _IN_PLACE:
            known = getattr(aten, _IN_PLACE[name]).default not in table and _alone(node)
        elif name == "aten.batch_norm.default":  # an output would lose its name
            _, _, _, mean, variance, training, *_ = node.args
            known = mean is not None and variance is not None and training is False and node not in results
        elif name == "aten.conv_transpose2d.input":
            known = True
        else:
            known = (name in _NEW or name in _VIEWS or target in translations) and target not in table
        ours = name in _IN_PLACE or name in ("aten.batch_norm.default", "aten.conv_transpose2d.input")
        if not known or (ours and (target in translations or node.kwargs)):
            return False
    return True


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
    module.recompile()
