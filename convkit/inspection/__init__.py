"""Reading ONNX graphs: statistics, cost, and the differences between two."""

from convkit.inspection._diff import OTHER, Difference, GraphDiff, NodeChange, WeightChange, diff_graphs
from convkit.inspection._flops import Shapes, has_formula, is_opaque, node_flops
from convkit.inspection._load import GraphFile, load_model, open_graph
from convkit.inspection._matching import Matching, Side, match_nodes, node_differences, tensor_difference
from convkit.inspection._shapes import TensorInfo, dtype_name, graph_inputs, infer_shapes, symbols, tensor_info
from convkit.inspection._stats import GraphStats, NodeCost, PluginUse, graph_stats, operator_name, plugin_uses
from convkit.inspection._tensors import Constant, constants

__all__ = [
    "OTHER",
    "Constant",
    "Difference",
    "GraphDiff",
    "GraphFile",
    "GraphStats",
    "Matching",
    "NodeChange",
    "NodeCost",
    "PluginUse",
    "Shapes",
    "Side",
    "TensorInfo",
    "WeightChange",
    "constants",
    "diff_graphs",
    "dtype_name",
    "graph_inputs",
    "graph_stats",
    "has_formula",
    "infer_shapes",
    "is_opaque",
    "load_model",
    "match_nodes",
    "node_differences",
    "node_flops",
    "open_graph",
    "operator_name",
    "plugin_uses",
    "symbols",
    "tensor_difference",
    "tensor_info",
]
