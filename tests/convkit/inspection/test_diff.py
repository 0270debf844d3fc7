"""Graph differences: what counts as one, how large it is, and which rewrite it is put down to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.graphs import make_model

from convkit import Artifact, NodeRewrite
from convkit.errors import ArtifactError
from convkit.graph import DropIdentity, RewriteRecord, apply_rewrite
from convkit.inspection import OTHER, GraphDiff, InterfaceChange, diff_graphs


def network() -> onnx.ModelProto:
    """x -> Conv -> Relu -> Identity -> Mul -> Sigmoid -> y, and Conv -> z."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Identity", ["r"], ["i"], name="identity"),
        helper.make_node("Mul", ["i", "scale"], ["m"], name="mul"),
        helper.make_node("Sigmoid", ["m"], ["y"], name="sigmoid"),
        helper.make_node("Conv", ["r", "v"], ["z"], name="head"),
    ]
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": random.normal(size=4).astype(np.float32),
        "v": random.normal(size=(2, 4, 1, 1)).astype(np.float32),
        "scale": np.float32(2),
    }
    return make_model(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 4, 8, 8), "z": (1, 2, 8, 8)}, constants)


def edited(edit: Callable[[onnx.GraphProto], Any]) -> onnx.ModelProto:
    model = network()
    edit(model.graph)
    return model


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(item for item in graph.node if item.name == name)


def rename(model: onnx.ModelProto, tensor: Callable[[str], str], node_name: Callable[[str], str]) -> onnx.ModelProto:
    """Rename every tensor but the inputs and outputs, and every node."""
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    for item in renamed.graph.node:
        item.name = node_name(item.name)
        item.input[:] = [name if name in fixed or not name else tensor(name) for name in item.input]
        item.output[:] = [name if name in fixed else tensor(name) for name in item.output]
    for constant in renamed.graph.initializer:
        constant.name = tensor(constant.name)
    return renamed


def changes(diff: GraphDiff) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(change.kind, change.name, change.details) for change in diff.nodes]


class TestWhatIsNoDifference:
    def check(self, other: onnx.ModelProto, by: str = "names") -> None:
        for diff in (diff_graphs(network(), other), diff_graphs(other, network())):
            assert diff.nodes == diff.weights == diff.interface == ()
            assert diff.identical
            assert diff.operators == {}
            assert (diff.matched_by, diff.same_nodes, diff.same_weights) == (by, 6, 4)

    def test_the_same_graph(self) -> None:
        self.check(network())

    def test_names_of_tensors(self) -> None:
        self.check(rename(network(), lambda name: f"t_{name}", lambda name: name))

    def test_names_of_everything(self) -> None:
        self.check(rename(network(), lambda name: f"t_{name}", lambda name: f"n_{name}"), by="structure")

    def test_no_names_of_nodes(self) -> None:
        self.check(rename(network(), lambda name: f"t_{name}", lambda name: ""), by="structure")

    def test_the_order_of_independent_nodes(self) -> None:
        def reorder(graph: onnx.GraphProto) -> None:
            head = graph.node.pop(5)
            graph.node.insert(2, head)

        self.check(edited(reorder))

    def test_an_attribute_at_its_default(self) -> None:
        self.check(edited(lambda graph: node(graph, "conv").attribute.append(helper.make_attribute("group", 1))))

    def test_the_field_that_holds_the_values(self) -> None:
        def retype(graph: onnx.GraphProto) -> None:
            bias = graph.initializer[1]
            values = numpy_helper.to_array(bias).copy()
            bias.ClearField("raw_data")
            bias.float_data.extend(values)

        self.check(edited(retype))

    def test_an_input_that_is_left_out_in_two_ways(self) -> None:
        self.check(edited(lambda graph: node(graph, "head").input.append("")))


class TestNodes:
    def test_an_attribute(self) -> None:
        def widen(graph: onnx.GraphProto) -> None:
            node(graph, "conv").attribute[0].ints[:] = [2, 2, 2, 2]

        assert changes(diff_graphs(network(), edited(widen))) == [
            ("changed", "conv", ("pads: [1, 1, 1, 1] -> [2, 2, 2, 2]",))
        ]

    def test_an_attribute_that_leaves_its_default(self) -> None:
        def stride(graph: onnx.GraphProto) -> None:
            node(graph, "head").attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))

        assert changes(diff_graphs(network(), edited(stride))) == [
            ("changed", "head", ("auto_pad: NOTSET -> SAME_UPPER",))
        ]

    def test_an_operator(self) -> None:
        def swap(graph: onnx.GraphProto) -> None:
            node(graph, "relu").op_type = "Tanh"

        diff = diff_graphs(network(), edited(swap))
        assert changes(diff) == [("changed", "relu", ("operator: Relu -> Tanh",))]
        assert diff.operators == {"Relu": (1, 0), "Tanh": (0, 1)}

    def test_where_an_input_comes_from(self) -> None:
        def skip(graph: onnx.GraphProto) -> None:
            node(graph, "head").input[0] = "c"

        assert changes(diff_graphs(network(), edited(skip))) == [("changed", "head", ("X: relu -> conv",))]

    def test_an_input_that_becomes_constant(self) -> None:
        def fix(graph: onnx.GraphProto) -> None:
            node(graph, "head").input[0] = "fixed"
            graph.initializer.append(numpy_helper.from_array(np.ones((1, 4, 8, 8), np.float32), "fixed"))

        diff = diff_graphs(network(), edited(fix))
        assert changes(diff) == [("changed", "head", ("X: relu -> constant float32 [1, 4, 8, 8]",))]
        assert [(change.kind, change.name) for change in diff.weights] == [("added", "fixed")]

    def test_a_node_put_in(self) -> None:
        def insert(graph: onnx.GraphProto) -> None:
            graph.node.insert(5, helper.make_node("Tanh", ["r"], ["t"], name="tanh"))
            node(graph, "head").input[0] = "t"

        diff = diff_graphs(network(), edited(insert))
        assert changes(diff) == [("changed", "head", ("X: relu -> tanh",)), ("added", "tanh", ())]
        assert diff.same_nodes == 5

    def test_a_node_that_takes_over_the_output_of_a_removed_one_is_the_only_difference(self) -> None:
        def fold(graph: onnx.GraphProto) -> None:
            graph.node.remove(node(graph, "relu"))
            node(graph, "conv").output[0] = "r"

        diff = diff_graphs(network(), edited(fold))
        assert changes(diff) == [("removed", "relu", ())]

    def test_outputs_of_the_graph_that_changed_places(self) -> None:
        def cross(graph: onnx.GraphProto) -> None:
            sigmoid, head = node(graph, "sigmoid"), node(graph, "head")
            sigmoid.output[0], head.output[0] = head.output[0], sigmoid.output[0]

        assert [d for d in diff_graphs(network(), edited(cross)).interface if d.what.startswith("source")] == [
            InterfaceChange("source of output y", "sigmoid", "head"),
            InterfaceChange("source of output z", "head", "sigmoid"),
        ]

    def test_which_output_of_a_node_is_read(self) -> None:
        def model(first: str, second: str) -> onnx.ModelProto:
            nodes = [
                helper.make_node("Split", ["x"], ["a", "b"], "split", axis=0, num_outputs=2),
                helper.make_node("Sub", [first, second], ["y"], "sub"),
            ]
            return make_model(nodes, {"x": (4,)}, {"y": (2,)})

        diff = diff_graphs(model("a", "b"), model("b", "a"))
        assert changes(diff) == [("changed", "sub", ("A: split -> split:1", "B: split:1 -> split"))]

    def test_the_body_of_a_branch(self) -> None:
        def branch(operator: str) -> onnx.GraphProto:
            nodes = [helper.make_node(operator, ["x"], ["r"])]
            return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info("r", 1, [2])])

        def model(operator: str) -> onnx.ModelProto:
            chosen = helper.make_node(
                "If", ["c"], ["y"], "if", then_branch=branch("Relu"), else_branch=branch(operator)
            )
            return make_model([chosen], {"x": (2,)}, {"y": (2,)}, {"c": np.bool_(True)})

        assert diff_graphs(model("Relu"), model("Relu")).identical
        (change,) = diff_graphs(model("Relu"), model("Tanh")).nodes
        assert change.details[0].startswith("else_branch: ")


class TestWeights:
    def changed(self, name: str, values: np.ndarray) -> GraphDiff:
        def put(graph: onnx.GraphProto) -> None:
            next(t for t in graph.initializer if t.name == name).CopyFrom(numpy_helper.from_array(values, name))

        return diff_graphs(network(), edited(put))

    def original(self, name: str) -> np.ndarray:
        return next(numpy_helper.to_array(t) for t in network().graph.initializer if t.name == name)

    def test_the_largest_difference(self) -> None:
        values = self.original("w").copy()
        values[1, 2, 0, 1] -= 0.75
        values[3, 0, 0, 0] += 0.5
        diff = self.changed("w", values)
        (weight,) = diff.weights
        assert (weight.kind, weight.name, weight.dtype, weight.shape) == ("changed", "w", "float32", (4, 3, 3, 3))
        assert weight.max_abs_difference == pytest.approx(0.75, rel=1e-6)
        assert changes(diff) == [("changed", "conv", ("W: values differ by up to 0.75",))]
        assert (diff.same_nodes, diff.same_weights) == (5, 3)

    def test_one_bit(self) -> None:
        values = np.nextafter(self.original("b"), np.float32(np.inf))
        (weight,) = self.changed("b", values).weights
        assert weight.max_abs_difference == np.abs(values.astype(np.float64) - self.original("b")).max() > 0

    def test_another_dtype_with_the_same_values(self) -> None:
        diff = self.changed("scale", np.float64(2))
        assert changes(diff) == [("changed", "mul", ("B: float32 [] -> float64 []",))]
        assert diff.weights[0].max_abs_difference == 0

    def test_another_shape_has_no_difference_to_speak_of(self) -> None:
        diff = self.changed("b", np.zeros((4, 1), np.float32))
        assert changes(diff) == [("changed", "conv", ("B: float32 [4] -> float32 [4, 1]",))]
        assert diff.weights[0].max_abs_difference is None

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_json_has_no_number_for(self, value: float) -> None:
        diff = self.changed("scale", np.float32(value))
        assert changes(diff) == [("changed", "mul", ("B: values differ",))]
        assert "NaN" not in json.dumps(diff.to_json())
        assert "Infinity" not in json.dumps(diff.to_json())

    def test_text(self) -> None:
        def model(text: str) -> onnx.ModelProto:
            constant = helper.make_node("Constant", [], ["y"], "text", value_strings=[text])
            return make_model_of_strings(constant)

        assert diff_graphs(model("a"), model("a")).identical
        assert changes(diff_graphs(model("a"), model("b"))) == [
            ("changed", "text", ("value_strings: [b'a'] -> [b'b']",))
        ]

    def test_a_constant_node_is_as_good_as_an_initializer(self) -> None:
        def move(graph: onnx.GraphProto) -> None:
            scale = graph.initializer.pop(3)
            graph.node.insert(0, helper.make_node("Constant", [], ["scale"], "two", value=scale))

        diff = diff_graphs(network(), edited(move))
        assert changes(diff) == [("added", "two", ())]
        assert [(change.kind, change.name) for change in diff.weights] == [("removed", "scale")]

    def test_a_renamed_weight_is_recognised_by_its_reader(self) -> None:
        def replace(graph: onnx.GraphProto) -> None:
            graph.initializer[0].CopyFrom(numpy_helper.from_array(self.original("w") + np.float32(0.5), "w_folded"))
            node(graph, "conv").input[1] = "w_folded"

        (weight,) = diff_graphs(network(), edited(replace)).weights
        assert (weight.kind, weight.name) == ("changed", "w_folded")
        assert weight.max_abs_difference == pytest.approx(0.5, rel=1e-6)


def make_model_of_strings(constant: onnx.NodeProto) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.STRING, [1])
    return helper.make_model(helper.make_graph([constant], "graph", [], [output]))


class TestInterface:
    def test_shapes_dtypes_opset_and_ir(self) -> None:
        other = network()
        other.opset_import[0].version, other.ir_version = 21, 10
        other.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        other.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT16
        assert diff_graphs(network(), other).interface == (
            InterfaceChange("IR version", "9", "10"),
            InterfaceChange("opset ai.onnx", "20", "21"),
            InterfaceChange("input x", "x float32 [1, 3, 8, 8]", "x float32 [batch, 3, 8, 8]"),
            InterfaceChange("output z", "z float32 [1, 2, 8, 8]", "z float16 [1, 2, 8, 8]"),
        )

    def test_one_more_output_and_another_order(self) -> None:
        other = network()
        y = other.graph.output.pop(0)
        other.graph.output.append(y)
        assert diff_graphs(network(), other).interface == (InterfaceChange("order of outputs", "y, z", "z, y"),)
        other.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 4, 8, 8]))
        assert InterfaceChange("output c", "", "c float32 [1, 4, 8, 8]") in diff_graphs(network(), other).interface


class Double(NodeRewrite):
    """Fold a Mul into the weights before a Relu: removes one node, changes one, adds none."""

    name = "test.fold-mul"
    reason = "for the test"
    op_types = ("Mul",)

    def match(self, graph: gs.Graph, node: gs.Node) -> bool:
        return True

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: bool) -> None:
        sigmoid = node.outputs[0].outputs[0]
        tanh = graph.layer(name="tanh", op="Tanh", inputs=[node.inputs[0]], outputs=["t"])[0]
        tanh.dtype = np.float32
        sigmoid.inputs = [tanh]
        node.outputs.clear()


def stamped(model: onnx.ModelProto, records: Sequence[RewriteRecord]) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    entries = [
        {"name": record.name, "removed": record.removed, "added": record.added, "changed": record.changed}
        for record in records
    ]
    result.metadata_props.add(key="convkit.rewrites", value=json.dumps(entries))
    return result


class TestRewrites:
    def rewritten(self) -> onnx.ModelProto:
        model, first = apply_rewrite(network(), DropIdentity())
        model, second = apply_rewrite(model, Double())
        assert first.fired == second.fired == 1
        return stamped(model, [first, second])

    def test_each_change_stands_below_the_rewrite_that_made_it(self) -> None:
        groups = diff_graphs(network(), self.rewritten()).groups()
        assert {name: {(c.kind, c.name) for c in found} for name, found in groups.items()} == {
            "graph.drop-identity": {("removed", "identity")},
            "test.fold-mul": {("removed", "mul"), ("added", "tanh"), ("changed", "sigmoid")},
        }

    def test_what_no_rewrite_did_comes_last(self) -> None:
        other = self.rewritten()
        node(other.graph, "head").attribute.append(helper.make_attribute("strides", [2, 2]))
        groups = diff_graphs(network(), other).groups()
        assert list(groups)[-1] == OTHER
        assert [(change.kind, change.name) for change in groups[OTHER]] == [("changed", "head")]

    def test_the_other_way_round_the_rewrites_are_missing(self) -> None:
        groups = diff_graphs(self.rewritten(), network()).groups()
        assert {name: {(c.kind, c.name) for c in found} for name, found in groups.items()} == {
            "without graph.drop-identity": {("added", "identity")},
            "without test.fold-mul": {("added", "mul"), ("removed", "tanh"), ("changed", "sigmoid")},
        }

    def test_a_rewrite_that_both_went_through_explains_nothing(self) -> None:
        one, other = self.rewritten(), self.rewritten()
        other.graph.node.remove(node(other.graph, "tanh"))
        node(other.graph, "sigmoid").input[0] = "r"
        assert set(diff_graphs(one, other).groups()) == {OTHER}

    def test_a_converted_graph_keeps_its_record(self, toy_artifact: Artifact) -> None:
        model = onnx.load(toy_artifact.model)
        assert [entry.key for entry in model.metadata_props].count("convkit.rewrites") == 1
        assert diff_graphs(model, model).identical

    @pytest.mark.parametrize("text", ["{", "[1]", '[{"name": "x"}]', "null", "[" * 100_000, "[" + "9" * 5000 + "]"])
    def test_a_damaged_record_is_refused(self, text: str) -> None:
        other = network()
        other.metadata_props.add(key="convkit.rewrites", value=text)
        with pytest.raises(ArtifactError, match="record of rewrites"):
            diff_graphs(network(), other)


OPERATORS = st.sampled_from(["Relu", "Tanh", "Sigmoid", "Exp", "Abs", "Neg"])


def chain(operators: Sequence[str], prefix: str) -> onnx.ModelProto:
    names = ["x", *(f"{prefix}{index}" for index in range(1, len(operators))), "y"]
    nodes = [
        helper.make_node(operator, [names[i]], [names[i + 1]], name=f"{prefix}_node{i}")
        for i, operator in enumerate(operators)
    ]
    return make_model(nodes, {"x": (2,)}, {"y": (2,)})


class TestStructure:
    @given(st.lists(OPERATORS, min_size=4, max_size=12), st.data())
    def test_a_node_taken_out_is_the_only_one_missing(self, operators: list[str], data: st.DataObject) -> None:
        gone = data.draw(st.integers(0, len(operators) - 1))
        shorter = operators[:gone] + operators[gone + 1 :]
        diff = diff_graphs(chain(operators, "a"), chain(shorter, "b"))
        assert diff.matched_by == "structure"
        assert [change.operator for change in diff.nodes if change.kind == "removed"] == [operators[gone]]
        assert not [change for change in diff.nodes if change.kind == "added"]
        assert diff.operators == {operators[gone]: (operators.count(operators[gone]), shorter.count(operators[gone]))}

    def test_weights_are_paired_by_their_readers(self) -> None:
        other = rename(network(), lambda name: f"t_{name}", lambda name: f"n_{name}")
        bias = next(t for t in other.graph.initializer if t.name == "t_b")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.25), "t_b"))
        diff = diff_graphs(network(), other)
        assert diff.matched_by == "structure"
        assert [(w.kind, w.name, pytest.approx(w.max_abs_difference)) for w in diff.weights] == [
            ("changed", "t_b", 0.25)
        ]
        assert changes(diff) == [("changed", "n_conv", ("B: values differ by up to 0.25",))]

    def test_weights_of_another_width_do_not_keep_layers_apart(self) -> None:
        other = rename(network(), lambda name: f"t_{name}", lambda name: f"n_{name}")
        for constant in other.graph.initializer:
            if constant.name == "t_w":
                constant.CopyFrom(numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "t_w"))
        assert [(c.kind, c.name) for c in diff_graphs(network(), other).nodes] == [("changed", "n_conv")]

    def test_inputs_and_outputs_are_paired_by_place(self) -> None:
        other = rename(network(), lambda name: f"t_{name}", lambda name: f"n_{name}")
        other.graph.input[0].name = "image"
        node(other.graph, "n_conv").input[0] = "image"
        diff = diff_graphs(network(), other)
        assert diff.nodes == ()
        assert diff.interface == (InterfaceChange("input 0", "x float32 [1, 3, 8, 8]", "image float32 [1, 3, 8, 8]"),)


def test_the_difference_is_json() -> None:
    def widen(graph: onnx.GraphProto) -> None:
        node(graph, "conv").attribute[0].ints[:] = [2, 2, 2, 2]

    document = json.loads(json.dumps(diff_graphs(network(), edited(widen)).to_json()))
    assert document["identical"] is False
    assert document["nodes"] == [
        {
            "kind": "changed",
            "name": "conv",
            "operator": "Conv",
            "module": "",
            "rewrite": "other",
            "details": ["pads: [1, 1, 1, 1] -> [2, 2, 2, 2]"],
        }
    ]


class TestHostileGraphs:
    """Files that mean a huge amount of work, or contradict themselves: compared or refused, and soon."""

    def test_long_graphs_with_nothing_in_common_but_their_operators(self) -> None:
        before = chain(["Relu", "Neg"] * 1500, "a")
        after = chain(["Neg", "Relu", "Relu"] * 1000, "b")
        started = time.process_time()
        diff = diff_graphs(before, after)
        assert time.process_time() - started < 20
        assert diff.matched_by == "structure"
        assert diff.operators == {"Neg": (1500, 1000), "Relu": (1500, 2000)}

    def test_in_a_long_graph_the_rare_operators_lead_to_the_others(self) -> None:
        block = ["Relu", "Neg", "Abs", "Exp"] * 25
        landmarks = ["Sin", "Cos", "Tan", "Erf", "Log", "Sign", "Ceil", "Sqrt", "Tanh", "Floor"]
        operators = [operator for landmark in landmarks for operator in (landmark, *block)]
        shorter = list(operators)
        del shorter[505]
        diff = diff_graphs(chain(operators, "a"), chain(shorter, "b"))
        assert diff.matched_by == "structure"
        assert [change.kind for change in diff.nodes if change.kind != "changed"] == ["removed"]
        assert diff.same_nodes >= len(shorter) - 2

    @pytest.mark.parametrize(
        ("dims", "dtype", "raw"),
        [
            ([4, 3, 3, 3], TensorProto.FLOAT, bytes(7)),
            ([4, 3, 3, 3], TensorProto.FLOAT, bytes(8)),
            ([2**31, 2**31], TensorProto.FLOAT, b""),
            ([1] * 1000, TensorProto.FLOAT, bytes(4)),
            ([4], TensorProto.UNDEFINED, b""),
            ([4], 99, bytes(16)),
        ],
    )
    def test_weights_whose_data_do_not_fit(self, dims: list[int], dtype: int, raw: bytes) -> None:
        other = network()
        other.graph.initializer[0].CopyFrom(TensorProto(name="w", dims=dims, data_type=dtype, raw_data=raw))
        (weight,) = diff_graphs(network(), other).weights
        assert (weight.kind, weight.name, weight.max_abs_difference) == ("changed", "w", None)
        assert diff_graphs(other, other).identical

    def test_an_opset_that_does_not_exist(self) -> None:
        other = network()
        other.opset_import[0].version = 2**31
        assert InterfaceChange("opset ai.onnx", "20", str(2**31)) in diff_graphs(network(), other).interface
