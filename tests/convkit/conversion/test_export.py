"""Export: a checked graph with named dimensions, whose node names lead back to the modules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.exporter import forget
from support.graphs import make_model, node, run_model
from torch import nn

from convkit import Dim, ModelSpec, TensorSpec
from convkit.conversion import check_graph, clean_names, export_onnx
from convkit.errors import ExportError
from convkit.graph import MODULE_KEY


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


class Net(nn.Module):
    """Two outputs: a map at half size, and the same map as a list of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block()])
        self.head = nn.Conv2d(4, 2, 1)
        self.twice = nn.ReLU()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.blocks[0](images)
        heat = self.twice(self.head(self.twice(features + 1)))
        return heat, heat.flatten(2).transpose(1, 2)


BATCH, HEIGHT, WIDTH = Dim("batch", 1, 1, 4), Dim("height", 16, 32, 64, 2), Dim("width", 16, 48, 64, 2)
OUTPUTS = (
    TensorSpec("heat", ("batch", 2, "height/2", "width/2")),
    TensorSpec("cells", ("batch", "height/2*width/2", 2)),
)


def spec(dims: tuple[Dim, ...], outputs: tuple[TensorSpec, ...] = OUTPUTS, dtype: str = "float32") -> ModelSpec:
    return ModelSpec("net", dims, (TensorSpec("images", ("batch", 3, "height", "width"), dtype),), outputs, {}, {})


def fixed(dim: Dim) -> Dim:
    return Dim.fixed(dim.name, dim.opt)


def axes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[Any]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def export(net: nn.Module, model_spec: ModelSpec, **options: Any) -> onnx.ModelProto:
    return export_onnx(net, model_spec, **{"opset": 20, "translations": {}, **options})


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def dynamic(net: Net) -> onnx.ModelProto:
    return export(net, spec((BATCH, HEIGHT, WIDTH)))


def assert_same(net: nn.Module, model: onnx.ModelProto, *shape: int) -> None:
    x = torch.randn(*shape)
    with torch.no_grad():
        expected = net(x)
    outputs = run_model(model, images=x.numpy())
    for name, value in zip(("heat", "cells"), expected, strict=True):
        np.testing.assert_allclose(outputs[name], value.numpy(), rtol=1e-4, atol=1e-5)


def test_dynamic_dimensions_keep_their_names(dynamic):
    assert axes(dynamic.graph.input) == {"images": ["batch", 3, "height", "width"]}
    assert axes(dynamic.graph.output) == {
        "heat": ["batch", 2, "height/2", "width/2"],
        "cells": ["batch", "height/2*width/2", 2],
    }


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (4, 3, 64, 64), (3, 3, 22, 58)])
def test_a_dynamic_graph_computes_the_same_at_every_size(net, dynamic, shape):
    assert_same(net, dynamic, *shape)


def test_static_dimensions_become_numbers(net):
    model = export(net, spec((fixed(BATCH), fixed(HEIGHT), fixed(WIDTH))), opset=19)
    assert axes(model.graph.input) == {"images": [1, 3, 32, 48]}
    assert axes(model.graph.output) == {"heat": [1, 2, 16, 24], "cells": [1, 384, 2]}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [19]
    assert_same(net, model, 1, 3, 32, 48)


def test_of_a_product_only_the_dynamic_factor_keeps_its_name(net):
    model = export(net, spec((BATCH, fixed(HEIGHT), WIDTH)))
    assert axes(model.graph.output) == {"heat": ["batch", 2, 16, "width/2"], "cells": ["batch", "8*width", 2]}
    assert_same(net, model, 2, 3, 32, 30)


def test_nodes_are_called_after_their_modules(net, dynamic):
    names = [node.name for node in dynamic.graph.node]
    assert len(set(names)) == len(names)
    assert {"blocks.0.conv/Conv", "blocks.0.act/Relu", "head/Conv", "twice/Relu", "twice/Relu_2"} <= set(names)
    modules = dict(net.named_modules())
    for item in dynamic.graph.node:
        (path,) = [entry.value for entry in item.metadata_props if entry.key == MODULE_KEY]
        assert path in modules
        assert item.name.startswith(f"{path}/" if path else item.op_type)
    weights = {initializer.name for initializer in dynamic.graph.initializer}
    assert {"head.weight", "head.bias", "blocks.0.conv.weight"} <= weights


def test_the_file_says_nothing_about_the_machine_it_was_made_on(dynamic):
    text = dynamic.SerializeToString().decode("latin-1")
    assert "site-packages" not in text
    assert ".py" not in text


def test_clean_names_keeps_inputs_outputs_and_wiring():
    nodes = [
        node("Relu", ["x"], ["val_1"], name="node_1"),
        node("Split", ["val_1"], ["val_2", "val_3"], name="node_2", num_outputs=2),
        node("Concat", ["val_3", "val_2"], ["y"], name="node_3", axis=0),
        node("Relu", ["y"], ["z"], name="node_4"),
    ]
    model = make_model(nodes, {"x": [4]}, {"y": [4], "z": [4]})
    scopes = ["['', 'stem', 'relu']", "['', 'split']", "['', 'cat']", "['', 'stem', 'relu_1']"]
    for item, scope in zip(model.graph.node, scopes, strict=True):
        item.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scope)
        item.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File /home/someone/secret.py")
    clean_names(model)
    check_graph(model)
    assert [item.name for item in model.graph.node] == ["stem/Relu", "Split", "Concat", "stem/Relu_2"]
    assert list(model.graph.node[1].output) == ["Split:0", "Split:1"]
    assert list(model.graph.node[2].input) == ["Split:1", "Split:0"]
    assert [item.name for item in (*model.graph.input, *model.graph.output)] == ["x", "y", "z"]
    assert all([e.key for e in item.metadata_props] == [MODULE_KEY] for item in model.graph.node)
    outputs = run_model(model, x=np.array([1, -2, 3, 4], np.float32))
    assert outputs["y"].tolist() == [3, 4, 1, 0]


def test_a_graph_that_breaks_the_standard_is_refused_in_one_line(dynamic):
    for damage in (
        lambda model: model.graph.node[0].input.__setitem__(0, "nowhere"),
        lambda model: model.graph.node.append(node("Relu", ["images", "images"], ["two"])),
        lambda model: model.graph.node.append(node("NoSuchOp", ["images"], ["strange"])),
        lambda model: model.graph.output[0].type.tensor_type.shape.dim.add(dim_value=7),
    ):
        model = onnx.ModelProto()
        model.CopyFrom(dynamic)
        damage(model)
        with pytest.raises(ExportError, match="checker rejects") as caught:
            check_graph(model)
        assert "\n" not in caught.value.message


class Unknown(nn.Module):
    """Call an operator that ONNX has no translation for."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.ops.convkit_test.mystery(images),)


@pytest.fixture(scope="module")
def mystery() -> Any:
    @torch.library.custom_op("convkit_test::mystery", mutates_args=())
    def operator(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)

    operator.register_fake(lambda x: torch.empty_like(x))
    return torch.ops.convkit_test.mystery.default


SAME = (TensorSpec("same", ("batch", 3, "height", "width")),)


def test_an_operator_without_translation_is_named_and_the_hook_is_recommended(mystery):
    with pytest.raises(ExportError, match="mystery") as caught:
        export(Unknown().eval(), spec((BATCH, fixed(HEIGHT), fixed(WIDTH)), SAME))
    assert "convkit_onnx_translations" in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_translation_of_a_plugin_is_used(mystery):
    from onnxscript import opset20

    model = export(
        Unknown().eval(),
        spec((BATCH, fixed(HEIGHT), fixed(WIDTH)), SAME),
        translations={mystery: lambda x: opset20.Relu(x)},
    )
    assert [item.op_type for item in model.graph.node] == ["Relu"]


class Rigid(nn.Module):
    """Fix the height, as a reshape with literal numbers does."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if images.shape[2] != 32:
            raise ValueError("only 32 rows")
        return (images * 2,)


def test_a_dimension_that_the_model_fixes_cannot_vary():
    with pytest.raises(ExportError, match="height") as caught:
        export(Rigid().eval(), spec((BATCH, HEIGHT, fixed(WIDTH)), SAME))
    assert "--shape height=N" in caught.value.hint
    model = export(Rigid().eval(), spec((BATCH, fixed(HEIGHT), fixed(WIDTH)), SAME))
    assert axes(model.graph.output) == {"same": ["batch", 3, 32, 48]}


class Counting(nn.Module):
    """Makes a number of the batch."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (images.reshape(len(images), 3, -1).reshape(images.shape),)


def test_a_size_of_which_the_model_makes_a_number_is_told_with_the_remedy():
    with pytest.raises(ExportError, match=r"fixed size 2 where batch was to vary") as caught:
        export(Counting().eval(), spec((BATCH, fixed(HEIGHT), fixed(WIDTH)), SAME))
    assert "len(x)" in caught.value.hint
    assert "--shape batch=N" in caught.value.hint


class Raising(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("no road leads here\nsecond line")


def test_an_error_of_the_model_itself_is_quoted():
    with pytest.raises(ExportError, match="no road leads here") as caught:
        export(Raising().eval(), spec((BATCH, fixed(HEIGHT), fixed(WIDTH)), SAME))
    assert "second line" not in caught.value.message


def test_outputs_that_the_adapter_describes_wrongly_are_refused(net):
    dims = (fixed(BATCH), fixed(HEIGHT), fixed(WIDTH))
    flat = (TensorSpec("heat", ("batch", 2)), OUTPUTS[1])
    with pytest.raises(ExportError, match=r"'heat' was exported with 4 axes"):
        export(net, spec(dims, flat))
    for outputs in (OUTPUTS[:1], (*OUTPUTS, TensorSpec("third", ("batch", 1)))):
        with pytest.raises(ExportError, match=r"2 outputs; the adapter declares [13]"):
            export(net, spec(dims, outputs))


def test_translations_of_one_export_are_not_there_in_the_next():
    """Tests copy the exporter's table (support.exporter); a model's own translations must stay its own."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    def relu(x):
        return x

    first, second = (ONNXRegistry.from_torchlib(opset_version=20) for _ in range(2))
    first.register_op(torch.ops.aten.relu.default, relu)
    third = ONNXRegistry.from_torchlib(opset_version=20)
    own = [[f for made in table.functions.values() for f in made if f.is_custom] for table in (first, second, third)]
    assert [len(functions) for functions in own] == [1, 0, 0]
    assert third.functions.keys() == second.functions.keys()
    assert len(third.functions) > 300


class Halves(nn.Module):
    """Split weights, which the exporter's optimizer does not fold."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(4))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        first, second = self.table.split(2)
        return (images * first.sum() + second.sum(),)


def test_exporting_says_nothing(net, capfd, caplog):
    forget()
    dims = fixed(BATCH), fixed(HEIGHT), fixed(WIDTH)
    export(net, spec(dims))
    export(Halves().eval(), spec(dims, SAME))
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


class Pooled(nn.Module):
    """Adds a pooled map to a convolved one, twice, as Deep Layer Aggregation does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        half = self.conv(images) + self.pool(images)
        return (self.conv(half) + self.pool(half),)


def test_halves_of_a_multiple_are_whole():
    """PyTorch cannot tell that both halves of a free size are the same; what is a multiple of 4 has a quarter."""
    dims = (BATCH, Dim("height", 4, 16, 32, 4), Dim.fixed("width", 8))
    described = spec(dims, (TensorSpec("out", ("batch", 3, "height/4", "width/4")),))
    module = Pooled().eval()
    model = export_onnx(module, described, opset=20, translations={})
    assert [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        8,
    ]
    for height in (4, 28):
        images = torch.randn(3, 3, height, 8)
        found = run_model(model, images=images.numpy())
        np.testing.assert_allclose(found["out"], module(images)[0].detach().numpy(), atol=1e-5)
