"""What nodes read, and the graphs inside of them."""

from __future__ import annotations

from onnx import TensorProto, helper, parser

from convkit.graph import all_graphs, read_names

BRANCHES = """
<ir_version: 9, opset_import: ["": 20]>
outer (bool c, float[2] x, float[2] z) => (float[2] y) {
    a = Relu(x)
    y = If(c) <
        then_branch = then () => (float[2] t) { b = Neg(a) t = Add(b, x) },
        else_branch = other () => (float[2] e) {
            e = If(c) <then_branch = deep () => (float[2] d) { d = Abs(a) },
                       else_branch = deeper () => (float[2] f) { f = Add(z, z) }>
        }
    >
}
"""


def test_a_node_reads_what_graphs_inside_of_it_take_from_around_it():
    graph = parser.parse_model(BRANCHES).graph
    relu, branch = graph.node
    assert list(read_names(relu)) == ["x"]
    assert set(read_names(branch)) == {"c", "a", "x", "z"}
    assert [inner.name for inner in all_graphs(graph)] == ["outer", "then", "other", "deep", "deeper"]


def test_an_output_of_a_branch_that_comes_from_around_it_is_read():
    """Such a branch has no node that names it."""
    kept = helper.make_graph([], "kept", [], [helper.make_tensor_value_info("a", TensorProto.FLOAT, [2])])
    branch = helper.make_node("If", ["c", ""], ["y"], then_branch=kept, else_branch=kept)
    assert set(read_names(branch)) == {"c", "a"}
