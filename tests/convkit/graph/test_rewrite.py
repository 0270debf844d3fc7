"""Rewrites: applied, counted against what they declare, recorded, and without a trace where they do nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from support.graphs import make_model, node, op_types, run_model

from convkit import NodeRewrite, NoMatch, Rewrite, Target, at_least, exactly
from convkit.conversion import check_graph
from convkit.errors import PluginError, RewriteError
from convkit.graph import PHASES, apply_rewrite, in_phases
from convkit.graph.plugin import convkit_graph_rewrites


class DoubleNegation(NodeRewrite):
    """Drop ``-(-x)``."""

    name: ClassVar[str] = "test.double-negation"
    reason: ClassVar[str] = "minus times minus is plus"
    op_types: ClassVar[tuple[str, ...]] = ("Neg",)

    def match(self, graph: Any, node: Any) -> Any:
        first = node.i() if node.inputs[0].inputs else None
        if first is None or first.op != "Neg":
            return None
        if len(first.outputs[0].outputs) > 1:
            return NoMatch("the inner negation is used elsewhere")
        return first

    def rewrite(self, graph: Any, node: Any, match: Any) -> None:
        source, result = match.inputs[0], node.outputs[0]
        for consumer in list(result.outputs):
            consumer.inputs = [source if tensor is result else tensor for tensor in consumer.inputs]
        node.outputs.clear()


class ScaleOnce(Rewrite):
    """Merge the factor of ``Mul`` by a constant into a renamed node: removes, adds and changes nodes."""

    name: ClassVar[str] = "test.scale"
    reason: ClassVar[str] = "to see what is recorded"

    def apply(self, graph: Any, misses: list[str]) -> int:
        fired = 0
        for item in graph.nodes:
            if item.op == "Relu" and item.name == "relu":
                item.op, item.attrs = "LeakyRelu", {"alpha": 0.5}
                fired += 1
            if item.name == "old":
                item.name = "new"
                fired += 1
        return fired


def negations(shared: bool = False) -> onnx.ModelProto:
    """Build x -> Neg -> Neg -> Relu -> y, the inner Neg being an output as well when ``shared``."""
    nodes = [
        node("Neg", ["x"], ["a"], name="inner"),
        node("Neg", ["a"], ["b"], name="outer"),
        node("Relu", ["b"], ["y"], name="relu"),
    ]
    if shared:
        nodes.append(node("Abs", ["a"], ["z"], name="abs"))
    return make_model(nodes, {"x": ["n", 4]}, {"y": ["n", 4], **({"z": ["n", 4]} if shared else {})})


X = np.array([[-2, -0.5, 0, 3]], np.float32)


def test_a_rewrite_changes_a_copy_and_keeps_what_the_graph_computes():
    model = negations()
    before = model.SerializeToString()
    result, record = apply_rewrite(model, DoubleNegation())
    assert model.SerializeToString() == before
    assert op_types(result) == ["Relu"]
    check_graph(result)
    np.testing.assert_array_equal(run_model(result, x=X)["y"], run_model(model, x=X)["y"])
    assert (record.fired, record.removed, record.added) == (1, ["inner", "outer"], [])
    assert record.changed == ["relu"]
    assert (record.name, record.reason, record.expect) == (
        "test.double-negation",
        "minus times minus is plus",
        "any number",
    )


def test_a_second_application_does_nothing_and_returns_the_model_itself():
    once, _ = apply_rewrite(negations(), DoubleNegation())
    again, record = apply_rewrite(once, DoubleNegation())
    assert again is once
    assert (record.fired, record.removed, record.added, record.changed) == (0, [], [], [])


def test_the_record_tells_removed_added_and_changed_nodes_apart():
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"),
        node("Neg", ["a"], ["b"], name="old"),
        node("Abs", ["b"], ["y"], name="abs"),
    ]
    result, record = apply_rewrite(make_model(nodes, {"x": [1, 4]}, {"y": [1, 4]}), ScaleOnce())
    assert op_types(result) == ["LeakyRelu", "Neg", "Abs"]
    assert (record.fired, record.removed, record.added, record.changed) == (2, ["old"], ["new"], ["relu"])


def test_a_near_miss_says_which_node_and_why():
    _, record = apply_rewrite(negations(shared=True), DoubleNegation())
    assert record.near_misses == ["outer: the inner negation is used elsewhere"]


def test_too_few_firings_are_an_error_with_the_near_misses():
    with pytest.raises(RewriteError, match=r"'test.double-negation' fired 0 times; it declares exactly 1") as caught:
        apply_rewrite(negations(shared=True), DoubleNegation(), exactly(1))
    assert "outer: the inner negation is used elsewhere" in caught.value.hint
    assert caught.value.exit_code == 3


def test_without_near_misses_the_error_says_that_nothing_was_found():
    model = make_model([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
    with pytest.raises(RewriteError) as caught:
        apply_rewrite(model, DoubleNegation(), at_least(1))
    assert "holds no node that it looks for" in caught.value.hint


def test_too_many_firings_are_an_error_too():
    with pytest.raises(RewriteError, match="fired 1 time; it declares exactly 0"):
        apply_rewrite(negations(), DoubleNegation(), exactly(0))


def test_the_rewrites_own_expectation_holds_unless_overridden():
    class Strict(DoubleNegation):
        expect = exactly(2)

    with pytest.raises(RewriteError, match="exactly 2"):
        apply_rewrite(negations(), Strict())
    _, record = apply_rewrite(negations(), Strict(), exactly(1))
    assert record.expect == "exactly 1"


def test_versions_opsets_and_metadata_survive():
    model = negations()
    model.opset_import.append(onnx.helper.make_opsetid("custom.domain", 3))
    model.producer_name, model.producer_version = "someone", "1.2"
    model.metadata_props.add(key="note", value="kept")
    model.graph.node[2].metadata_props.add(key="convkit.module", value="head.relu")
    result, _ = apply_rewrite(model, DoubleNegation())
    assert (result.ir_version, result.producer_name, result.producer_version) == (9, "someone", "1.2")
    assert {entry.domain: entry.version for entry in result.opset_import} == {"": 20, "custom.domain": 3}
    assert [(entry.key, entry.value) for entry in result.metadata_props] == [("note", "kept")]
    assert [(e.key, e.value) for e in result.graph.node[0].metadata_props] == [("convkit.module", "head.relu")]
    assert [value.name for value in (*result.graph.input, *result.graph.output)] == ["x", "y"]
    assert [d.dim_param or d.dim_value for d in result.graph.input[0].type.tensor_type.shape.dim] == ["n", 4]


def rewrite_of(name: str, phase: Any) -> Rewrite:
    """Return a rewrite of that name and phase, which does nothing."""
    return type("Named", (ScaleOnce,), {"name": name, "phase": phase})()


def test_rewrites_run_by_phase_then_by_plugin_then_in_the_order_given():
    found = {
        "zebra": [rewrite_of("z.target", "target"), rewrite_of("z.clean", "clean"), rewrite_of("z.fuse", "fuse")],
        "ant": [rewrite_of("a.fuse 2", "fuse"), rewrite_of("a.fuse 1", "fuse"), rewrite_of("a.precision", "precision")],
    }
    expected = ["z.clean", "a.fuse 2", "a.fuse 1", "z.fuse", "a.precision", "z.target"]
    for order in (found, dict(reversed(found.items()))):
        pairs = in_phases(order)
        assert [rewrite.name for _, rewrite in pairs] == expected
        assert all(plugin[0] == rewrite.name[0] for plugin, rewrite in pairs)
    assert in_phases({}) == in_phases({"ant": []}) == []


def test_the_order_of_the_phases_is_clean_fuse_precision_target():
    found = {"one": [rewrite_of(phase, phase) for phase in reversed(PHASES)]}
    assert [rewrite.name for _, rewrite in in_phases(found)] == ["clean", "fuse", "precision", "target"]
    assert Rewrite.phase == "fuse", "what says nothing fuses"
    assert {type(r).__name__: r.phase for r in convkit_graph_rewrites(Target(precision="fp16"))} == {
        "FoldConstants": "clean",
        "DropIdentity": "clean",
        "To16Bit": "precision",
    }


@pytest.mark.parametrize(("phase", "hint"), [("cleanup", "Did you mean 'clean'?"), ("last", "fuse"), ("", "target")])
def test_a_phase_that_does_not_exist_is_the_plugins_mistake(phase, hint):
    with pytest.raises(PluginError, match=r"'a\.wrong' of plugin 'ant'") as caught:
        in_phases({"ant": [rewrite_of("a.right", "clean"), rewrite_of("a.wrong", phase)]})
    assert hint in caught.value.hint
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("match", "text"),
    [
        (NoMatch("another node reads it"), "another node reads it"),
        (NoMatch("they read it too", ("a/Relu", "b/Add")), "they read it too (a/Relu, b/Add)"),
    ],
)
def test_a_near_miss_names_the_nodes_it_is_about(match, text):
    assert str(match) == text
