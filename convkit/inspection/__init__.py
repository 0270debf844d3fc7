"""Reading ONNX graphs: what one contains and costs, and how two differ."""

from convkit.inspection._diff import OTHER, GraphDiff, InterfaceChange, NodeChange, WeightChange, diff_graphs
from convkit.inspection._load import GraphFile, open_graph
from convkit.inspection._precision import GraphPrecision, graph_precision
from convkit.inspection._shapes import TensorInfo
from convkit.inspection._stats import GraphStats, NodeCost, graph_stats, symbolic_dims

__all__ = [
    "OTHER",
    "GraphDiff",
    "GraphFile",
    "GraphPrecision",
    "GraphStats",
    "InterfaceChange",
    "NodeChange",
    "NodeCost",
    "TensorInfo",
    "WeightChange",
    "diff_graphs",
    "graph_precision",
    "graph_stats",
    "open_graph",
    "symbolic_dims",
]
