"""The place of a rewrite: what was there, what is there now, and what is around it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from support.graphs import make_model

from convkit.graph import DropIdentity, RewriteRecord, apply_rewrite
from convkit.reporting import excerpt, excerpts_of
from convkit.reporting._graph_drawing import draw_graph


def chain(length: int) -> onnx.ModelProto:
    """Return x -> (Mul -> Identity) * length -> y."""
    nodes, tensor = [], "x"
    for index in range(length):
        nodes.append(helper.make_node("Mul", [tensor, f"w{index}"], [f"m{index}"], name=f"mul{index}"))
        tensor = "y" if index == length - 1 else f"i{index}"
        nodes.append(helper.make_node("Identity", [f"m{index}"], [tensor], name=f"identity{index}"))
    constants = {f"w{index}": np.full((4, 2), index + 1, np.float32) for index in range(length)}
    return make_model(nodes, {"x": (4, 2)}, {"y": (4, 2)}, constants)


def kinds(part):
    return {node["name"]: node["kind"] for node in part["nodes"]}


def links(part):
    names = [node["name"] for node in part["nodes"]]
    return {(names[a], names[b]) for a, b, _ in part["edges"]}


def test_a_rewrite_is_shown_with_its_neighbours_before_and_after():
    before = chain(3)
    after, record = apply_rewrite(before, DropIdentity())
    (found,) = excerpts_of(before, after, record)
    assert found["rewrite"] == "graph.drop-identity"
    assert kinds(found["before"])["identity0"] == "removed"
    assert kinds(found["after"])["mul1"] == "changed"
    assert "identity0" not in kinds(found["after"])
    assert ("mul0", "identity0") in links(found["before"])
    assert ("mul0", "mul1") in links(found["after"])
    described = {node["name"]: node for node in found["before"]["nodes"]}
    assert described["mul1"]["weights"] == ["4x2"]


def test_only_the_first_of_several_places_is_shown():
    before = chain(8)
    after = chain(8)
    for index in (2, 12):
        after.graph.node[index].op_type = "Add"
    found = excerpt(before, after, changed=["mul1", "mul6"])
    assert found["places"] == 2
    assert kinds(found["before"]) == {"identity0": "", "mul1": "changed", "identity1": ""}
    assert kinds(found["after"]) == kinds(found["before"])
    assert [node["operator"] for node in found["after"]["nodes"]] == ["Identity", "Add", "Identity"]


def test_a_large_place_is_cut_and_says_how_much_is_missing():
    before = chain(40)
    found = excerpt(before, before, changed=[node.name for node in before.graph.node])
    assert found["left_out"] == 80 - 16
    assert sum(kind == "changed" for kind in kinds(found["before"]).values()) <= 16 + 10
    assert kinds(found["before"])["x"] == "", "the input of the graph is a neighbour"


def test_nodes_that_only_came_are_shown_where_they_came():
    before, after = chain(2), chain(2)
    after.graph.node[1].CopyFrom(helper.make_node("Relu", ["m0"], ["r"], name="new"))
    after.graph.node.insert(2, helper.make_node("Identity", ["r"], ["i0"], name="identity0"))
    found = excerpt(before, after, added=["new"])
    assert kinds(found["after"]) == {"mul0": "", "new": "added", "identity0": ""}
    assert found["before"]["nodes"] == []
    assert excerpts_of(before, before, RewriteRecord("r", "", "")) == []


def test_a_drawing_puts_each_node_below_what_it_reads_and_none_on_another():
    nodes = [
        {"name": str(i), "operator": "Op" * (1 + i % 3), "module": "", "weights": [], "kind": ""} for i in range(7)
    ]
    edges = [[0, 1, "a"], [0, 2, "b"], [1, 3, "c"], [2, 3, "d"], [3, 5, "e"], [4, 5, "f"], [0, 5, "g"]]
    drawn = draw_graph({"nodes": nodes, "edges": edges})
    for a, b, _ in edges:
        assert drawn.boxes[a].y + drawn.boxes[a].height < drawn.boxes[b].y
    for i, one in enumerate(drawn.boxes):
        assert one.x >= 0
        assert one.x + one.width <= drawn.width
        assert one.y + one.height <= drawn.height
        for other in drawn.boxes[:i]:
            apart = one.y != other.y or one.x >= other.x + other.width or other.x >= one.x + one.width
            assert apart
    assert draw_graph({"nodes": [], "edges": []}).boxes == ()


def test_a_graph_with_a_cycle_is_drawn_all_the_same():
    nodes = [{"name": name, "operator": "Op", "module": "", "weights": [], "kind": ""} for name in "ab"]
    assert len(draw_graph({"nodes": nodes, "edges": [[0, 1, "x"], [1, 0, "y"]]}).boxes) == 2
