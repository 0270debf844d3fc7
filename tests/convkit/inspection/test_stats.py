"""Graph statistics against independent counts: PyTorch's own flop counter, its parameters, and figures by hand."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from support.graphs import make_model
from torch.utils.flop_counter import FlopCounterMode

from convkit import Artifact
from convkit.errors import ArtifactError
from convkit.inspection import graph_stats, symbolic_dims


def torch_flops(compute: Any, *shapes: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter:
        compute(*(torch.zeros(shape) for shape in shapes))
    return counter.get_total_flops()


def single(node: onnx.NodeProto, shape: tuple[Any, ...], output: tuple[Any, ...], **constants: Any) -> onnx.ModelProto:
    return make_model([node], {"x": shape}, {"y": output}, {name: np.float32(v) for name, v in constants.items()})


class TestFlops:
    @pytest.mark.parametrize(
        ("shape", "weight", "options"),
        [
            ((2, 3, 17, 23), (8, 3, 3, 3), {}),
            ((1, 4, 16, 16), (6, 2, 5, 3), {"groups": 2, "stride": (2, 1), "padding": (2, 1)}),
            ((3, 6, 20, 20), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
            ((1, 4, 30, 30), (5, 4, 3, 3), {"dilation": 3}),
            ((2, 4, 31), (5, 4, 3), {"stride": 2}),
        ],
    )
    def test_a_convolution_counts_as_in_torch(self, shape: Any, weight: Any, options: Any) -> None:
        space = len(shape) - 2
        many = {key: value if isinstance(value, tuple) else (value,) * space for key, value in options.items()}
        function = F.conv1d if space == 1 else F.conv2d
        output = tuple(function(torch.zeros(shape), torch.zeros(weight), **options).shape)
        node = helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["y"],
            group=options.get("groups", 1),
            strides=many.get("stride", (1,) * space),
            dilations=many.get("dilation", (1,) * space),
            pads=many.get("padding", (0,) * space) * 2,
        )
        model = single(node, shape, output, w=np.ones(weight), b=np.ones(weight[0]))
        expected = torch_flops(lambda x, w: function(x, w, **options), shape, weight)
        assert graph_stats(model, {}).flops == expected > 0

    @pytest.mark.parametrize(
        ("shape", "weight", "options"),
        [
            ((2, 8, 7, 9), (8, 4, 4, 4), {"stride": 2, "padding": 1}),
            ((1, 6, 5, 5), (6, 2, 3, 3), {"groups": 3}),
        ],
    )
    def test_a_transposed_convolution_counts_as_in_torch(self, shape: Any, weight: Any, options: Any) -> None:
        output = tuple(F.conv_transpose2d(torch.zeros(shape), torch.zeros(weight), **options).shape)
        stride, pad = options.get("stride", 1), options.get("padding", 0)
        node = helper.make_node(
            "ConvTranspose", ["x", "w"], ["y"], group=options.get("groups", 1), strides=[stride] * 2, pads=[pad] * 4
        )
        model = single(node, shape, output, w=np.ones(weight))
        expected = torch_flops(lambda x, w: F.conv_transpose2d(x, w, **options), shape, weight)
        assert graph_stats(model, {}).flops == expected > 0

    def test_a_transposed_convolution_by_hand(self) -> None:
        node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
        model = single(node, (1, 64, 32, 32), (1, 16, 64, 64), w=np.ones((64, 16, 4, 4)))
        # each of the 64 x 32 x 32 inputs meets 16 kernels of 16 weights
        assert graph_stats(model, {}).flops == 2 * (64 * 32 * 32) * (16 * 16)

    @pytest.mark.parametrize("masked", [False, True])
    def test_a_deformable_convolution_by_hand(self, masked: bool) -> None:
        shape, taps, area = (1, 4, 6, 5), 9, 6 * 5
        nodes = [helper.make_node("DeformConv", ["x", "w", "o", "", "m"][: 5 if masked else 3], ["y"], pads=[1] * 4)]
        inputs = {"x": shape, "o": (1, 2 * taps, 6, 5), **({"m": (1, taps, 6, 5)} if masked else {})}
        model = make_model(nodes, inputs, {"y": (1, 8, 6, 5)}, {"w": np.ones((8, 4, 3, 3), np.float32)})
        convolution = 2 * 8 * area * 4 * taps
        interpolation = (4 + 3 + masked) * area * taps * 4
        assert graph_stats(model, {}).flops == convolution + interpolation

    @pytest.mark.parametrize("transposed", [False, True])
    def test_a_linear_layer_counts_as_in_torch(self, transposed: bool) -> None:
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transA=int(transposed), transB=1)
        model = single(node, (20, 5) if transposed else (5, 20), (5, 7), w=np.ones((7, 20)), b=np.ones(7))
        assert graph_stats(model, {}).flops == torch_flops(F.linear, (5, 20), (7, 20))

    @pytest.mark.parametrize(
        ("left", "right"), [((2, 3, 4, 5), (2, 3, 5, 6)), ((4, 5), (5, 6)), ((2, 3, 4, 5), (5, 6)), ((5,), (5,))]
    )
    def test_a_matrix_product_counts_as_in_torch(self, left: Any, right: Any) -> None:
        output = tuple(np.matmul(np.ones(left), np.ones(right)).shape)
        model = make_model([helper.make_node("MatMul", ["x", "z"], ["y"])], {"x": left, "z": right}, {"y": output})
        products = torch_flops(torch.matmul, left, right) or 2 * left[-1]  # torch leaves out dot products of vectors
        assert graph_stats(model, {}).flops == products

    def test_a_whole_network_counts_as_in_torch(self, toy_artifact: Artifact) -> None:
        from support.toy import ToyNet

        stats = graph_stats(onnx.load(toy_artifact.model), {"batch": 3})
        assert stats.flops == torch_flops(ToyNet(4).eval(), (3, 3, 32, 32))
        assert [cost.module for cost in stats.costs] == ["body", "stem.0", "head"]
        assert [cost.flops for cost in stats.costs] == sorted((cost.flops for cost in stats.costs), reverse=True)
        assert stats.flops_by_operator().keys() == {"Conv", "Gemm"}

    def test_integer_products_count_too(self) -> None:
        inputs = ["x", "s", "z", "w", "s", "z", "s", "z"]
        values = {"s": np.float32(1), "z": np.uint8(0), "w": np.ones((4, 2, 3, 3), np.uint8)}
        graph = helper.make_graph(
            [helper.make_node("QLinearConv", inputs, ["y"])],
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2, 5, 5])],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 4, 3, 3])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        assert graph_stats(model, {}).flops == 2 * (4 * 3 * 3) * (2 * 3 * 3)


class TestSizes:
    def model(self) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Shape", ["c"], ["s"], start=0, end=1),
            helper.make_node("Concat", ["s", "minus"], ["t"], axis=0),
            helper.make_node("Reshape", ["c", "t"], ["flat"]),
            helper.make_node("ReduceMean", ["flat", "one"], ["y"]),
        ]
        constants = {"w": np.ones((4, 3, 3, 3), np.float32), "minus": np.int64([-1]), "one": np.int64([1])}
        return make_model(nodes, {"x": ("batch", 3, "height", 32)}, {"y": ("batch", 1)}, constants)

    def test_sizes_are_put_in_for_symbols(self) -> None:
        stats = graph_stats(self.model(), {"batch": 2, "height": 64})
        assert stats.flops == 2 * (2 * 4 * 32 * 16) * 27
        assert stats.sizes == {"batch": 2, "height": 64}
        assert stats.costs[0].output == (2, 4, 32, 16)

    def test_an_unnamed_batch_is_one_and_anything_else_is_asked_for(self) -> None:
        assert graph_stats(self.model(), {"height": 64}).sizes == {"batch": 1, "height": 64}
        stats = graph_stats(self.model(), {})
        assert (stats.flops, stats.costs, stats.unsized) == (None, (), ("height",))

    def test_names_that_the_graph_does_not_have_are_left_out(self) -> None:
        assert graph_stats(self.model(), {"height": 64, "width": 64}).sizes == {"batch": 1, "height": 64}

    def test_what_the_file_says_of_inner_tensors_is_not_trusted(self) -> None:
        model = self.model()
        model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n", 4, "(h-1)//2+1", 7]))
        assert graph_stats(model, {"height": 64}).flops == 2 * (4 * 32 * 16) * 27

    def test_nor_is_what_it_says_of_its_outputs(self) -> None:
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])]
        shapes = {"x": (1, 3, "height", 32)}, {"y": (1, 4, "height/2", "columns")}
        model = make_model(nodes, *shapes, {"w": np.ones((4, 3, 2, 2), np.float32)})
        assert graph_stats(model, {"height": 64}).flops == 2 * (4 * 32 * 16) * 12
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 7  # left behind when the input was resized
        assert graph_stats(model, {"height": 64}).flops == 2 * (4 * 32 * 16) * 12

    def test_a_product_behind_a_reshape_that_the_graph_computes(self) -> None:
        model = self.model()
        model.graph.node.insert(4, helper.make_node("Gemm", ["flat", "g"], ["h"]))
        model.graph.initializer.append(numpy_helper.from_array(np.ones((4 * 32 * 16, 5), np.float32), "g"))
        model.graph.node[5].input[0] = "h"
        stats = graph_stats(model, {"height": 64})
        assert stats.flops_by_operator()["Gemm"] == 2 * (4 * 32 * 16) * 5
        assert stats.uncounted == {}

    def test_an_axis_without_a_name_is_called_after_its_place(self) -> None:
        model = self.model()
        model.graph.input[0].type.tensor_type.shape.dim[2].Clear()
        assert graph_stats(model, {}).unsized == ("x.2",)
        assert graph_stats(model, {"x.2": 64}).flops == 2 * (4 * 32 * 16) * 27

    def test_what_cannot_be_counted_is_said(self) -> None:
        nodes = [
            helper.make_node("Mystery", ["x"], ["m"], domain="own"),
            helper.make_node("Conv", ["m", "w"], ["c"]),
            helper.make_node("Einsum", ["x", "x"], ["e"], equation="abcd,abcd->ab"),
            helper.make_node("Identity", ["c"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.ones((4, 2, 3, 3), np.float32), "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("own", 1)])
        stats = graph_stats(model, {})
        assert stats.uncounted == {"Conv": 1, "Einsum": 1, "own::Mystery": 1}
        assert stats.flops == 0
        assert stats.operators["own::Mystery"] == 1
        assert stats.opsets == {"ai.onnx": 20, "own": 1}
        assert stats.foreign == ("own::Mystery",)

    def test_an_operator_that_onnx_lacks_is_foreign_in_the_standard_domain_too(self) -> None:
        """As the private nodes of old exports are: their domain is empty."""
        conv = helper.make_node("Conv", ["x", "w"], ["c"])
        graph = helper.make_graph(
            [conv, helper.make_node("DCNv2", ["c"], ["y"])],
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.ones((4, 2, 3, 3), np.float32), "w")],
        )
        stats = graph_stats(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)]), {})
        assert stats.foreign == ("DCNv2",)
        assert stats.uncounted == {"DCNv2": 1}
        assert stats.flops == 2 * 4 * 9 * 2 * 9


class TestParameters:
    def test_they_are_those_of_the_module(self) -> None:
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 4, 5)).eval()
        state = {name.replace(".", "_"): value.numpy() for name, value in module.state_dict().items()}
        nodes = [
            helper.make_node("Conv", ["x", "0_weight", "0_bias"], ["c"]),
            helper.make_node("Reshape", ["c", "shape"], ["f"]),
            helper.make_node("Gemm", ["f", "2_weight", "2_bias"], ["y"], transB=1),
        ]
        model = make_model(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 5)}, {**state, "shape": np.int64([1, 32])})
        stats = graph_stats(model, {})
        assert stats.parameters == sum(parameter.numel() for parameter in module.parameters())
        assert stats.parameter_bytes == 4 * stats.parameters
        assert stats.parameter_dtypes == {"float32": stats.parameters}

    def test_a_constant_node_holds_weights_too_and_a_shared_weight_counts_once(self) -> None:
        constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.ones(6, np.float32)))
        nodes = [constant, helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "w"], ["y"])]
        assert graph_stats(make_model(nodes, {"x": (6,)}, {"y": (6,)}), {}).parameters == 6

    @pytest.mark.parametrize(
        ("dtype", "size"),
        [
            (TensorProto.FLOAT16, 2),
            (TensorProto.BFLOAT16, 2),
            (TensorProto.DOUBLE, 8),
            (TensorProto.FLOAT8E4M3FN, 1),
            (TensorProto.INT4, 0.5),
        ],
    )
    def test_bytes_of_every_width(self, dtype: int, size: float) -> None:
        model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, {"y": (1,)})
        model.graph.initializer.append(helper.make_tensor("w", dtype, [10], [0.0] * 10))
        stats = graph_stats(model, {})
        assert (stats.parameters, stats.parameter_bytes) == (10, 10 * size)

    def test_a_byte_that_is_half_full_is_a_byte(self) -> None:
        model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, {"y": (1,)})
        model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [7], [0] * 7))
        assert graph_stats(model, {}).parameter_bytes == 4

    def test_quantised_weights_and_biases_count_and_their_scales_do_not(self) -> None:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["dw"]),
            helper.make_node("DequantizeLinear", ["b", "s"], ["db"]),
            helper.make_node("Conv", ["d", "dw", "db"], ["y"]),
        ]
        constants = {
            "s": np.float32(0.1),
            "z": np.int8(0),
            "w": np.ones((4, 3, 1, 1), np.int8),
            "b": np.ones(4, np.int32),
        }
        stats = graph_stats(make_model(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 4, 8, 8)}, constants), {})
        assert stats.parameter_dtypes == {"int8": 12, "int32": 4}
        assert stats.parameter_bytes == 12 + 16
        assert stats.quantization == {
            "DequantizeLinear int8": 2,
            "DequantizeLinear int32": 1,
            "QuantizeLinear int8": 1,
        }
        assert stats.tensor_dtypes == {"float32": 4, "int8": 1}
        assert stats.flops == 2 * 4 * 64 * 3


def test_nodes_inside_control_flow_are_counted_as_nodes() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])], "branch", [], [helper.make_tensor_value_info("r", 1, [2])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = make_model([node], {"x": (2,)}, {"y": (2,)}, {"c": np.bool_(True)})
    stats = graph_stats(model, {})
    assert stats.operators == {"Relu": 2, "If": 1}
    assert stats.nodes == 3
    assert stats.uncounted == {"If": 1}


def test_functions_of_the_model_are_looked_into() -> None:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    graph = helper.make_graph(
        [helper.make_node("Product", ["x", "x"], ["y"], domain="own")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])],
    )
    function = helper.make_function("own", "Product", ["a", "b"], ["c"], body, opsets[:1])
    stats = graph_stats(helper.make_model(graph, opset_imports=opsets, functions=[function]), {})
    assert stats.operators == {"MatMul": 1}
    assert stats.flops == 2 * 4 * 4 * 4


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    model = make_model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (3,)}, {"y": (3,)}, {"w": np.ones(3, "f4")})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    assert [str(tensor) for tensor in graph_stats(model, {}).inputs] == ["x float32 [3]"]


def test_the_description_is_json(toy_artifact: Artifact) -> None:
    stats = graph_stats(onnx.load(toy_artifact.model), {})
    document = json.loads(json.dumps(stats.to_json()))
    assert document["nodes"] == 6
    assert document["inputs"] == [{"name": "images", "dtype": "float32", "shape": ["batch", 3, 32, 32]}]
    assert document["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 4]}]
    assert document["opsets"] == {"ai.onnx": 20}


def test_the_symbolic_dimensions_of_the_inputs_in_order() -> None:
    node = helper.make_node("Add", ["x", "z"], ["y"])
    model = make_model([node], {"x": ("n", 3, "h"), "z": ("n", 3, "w")}, {"y": ("n", 3, "h")})
    assert symbolic_dims(model) == ["n", "h", "w"]


def calling(depth: int, again: bool = False) -> onnx.ModelProto:
    """Return a model whose function f0 calls f1 twice, which calls f2 twice, …; ``again``: the last one calls f0."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]

    def calls(callee: str, domain: str = "own") -> list[onnx.NodeProto]:
        return [helper.make_node(callee, [a], [b], domain=domain) for a, b in (("x", "m"), ("m", "y"))]

    last = calls("f0") if again else calls("Relu", "")
    bodies = [calls(f"f{level + 1}") for level in range(depth)] + [last]
    functions = [helper.make_function("own", f"f{i}", ["x"], ["y"], body, opsets) for i, body in enumerate(bodies)]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([*calls("f0")[:1], helper.make_node("Relu", ["m"], ["y"])], "g", tensors[:1], tensors[1:])
    return helper.make_model(graph, opset_imports=opsets, functions=functions)


class TestHostileGraphs:
    """Files that mean an endless or huge amount of work, or contradict themselves: refused or described at once."""

    def test_functions_of_reasonable_size_are_put_in(self) -> None:
        assert graph_stats(calling(3), {}).operators == {"Relu": 2**4 + 1}

    def test_functions_that_double_at_each_level_are_refused(self) -> None:
        started = time.process_time()
        with pytest.raises(ArtifactError, match=r"has 1\.13e\+15 nodes"):
            graph_stats(calling(49), {})
        assert time.process_time() - started < 5

    @pytest.mark.parametrize("depth", [0, 3])
    def test_functions_that_call_each_other_are_refused(self, depth: int) -> None:
        with pytest.raises(ArtifactError, match="without end"):
            graph_stats(calling(depth, again=True), {})

    @pytest.mark.parametrize(
        ("operator", "inputs", "outputs"),
        [
            ("Conv", [], ["y"]),
            ("Conv", ["x", "w"], []),
            ("ConvTranspose", ["x"], ["y"]),
            ("Gemm", ["x"], []),
            ("QuantizeLinear", [], ["y"]),
            ("DequantizeLinear", [], []),
            ("Loop", ["x"], ["y"]),
            ("Constant", [], []),
        ],
    )
    def test_nodes_without_their_inputs_or_outputs(self, operator: str, inputs: list[str], outputs: list[str]) -> None:
        value = numpy_helper.from_array(np.float32(1))
        more = {"value": value} if operator == "Constant" else {}
        node = helper.make_node(operator, inputs, outputs, name="odd", **more)
        tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xy"]
        weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
        graph = helper.make_graph([node], "graph", tensors[:1], tensors[1:], [weight])
        stats = graph_stats(helper.make_model(graph), {})
        assert stats.operators == {operator: 1}
        json.dumps(stats.to_json())

    def test_types_and_domains_that_do_not_exist(self) -> None:
        node = helper.make_node("MMCVModulatedDeformConv2d", ["x"], ["y"], domain="mmdeploy")
        tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
        model = helper.make_model(helper.make_graph([node], "graph", tensors[:1], tensors[1:]))
        model.graph.input[0].type.tensor_type.elem_type = 77
        model.graph.initializer.append(TensorProto(name="w", dims=[4], data_type=99, raw_data=bytes(16)))
        stats = graph_stats(model, {})
        assert stats.inputs[0].dtype == "type 77"
        assert stats.foreign == ("mmdeploy::MMCVModulatedDeformConv2d",)
