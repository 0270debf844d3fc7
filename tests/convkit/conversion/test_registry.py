"""The exporter's table of translations is made once, and is the one that it makes by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from onnxscript import opset18
from support.exporter import forget
from torch import nn
from torch.onnx._internal.exporter import _registration

from convkit.conversion import _registry
from convkit.conversion._registry import one_registry


def described(registry: Any) -> dict[Any, list[tuple[Any, ...]]]:
    return {
        target: [
            (one.onnx_function, str(one.signature), one.is_complex, one.is_custom, one.opset_introduced, one.device)
            for one in group
        ]
        for target, group in registry.functions.items()
    }


def by_itself() -> Any:
    """Return what makes a table in PyTorch."""
    function = _registration.ONNXRegistry.from_torchlib.__func__  # type: ignore[attr-defined]
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@pytest.mark.parametrize("opset", [18, 21])
def test_the_table_is_the_one_that_pytorch_makes(opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_known", {})
    with one_registry():
        table = _registration.ONNXRegistry.from_torchlib(opset_version=opset)
        again = _registration.ONNXRegistry().from_torchlib(opset_version=opset)
    own = by_itself()(_registration.ONNXRegistry, opset_version=opset)
    assert described(table) == described(own)
    assert described(again) == described(own)
    assert table.opset_version == own.opset_version
    assert len(table.functions) > 400


def exported(**options: Any) -> list[str]:
    """Return the operators of the graph of a ReLU."""
    with one_registry():
        program = torch.onnx.export(nn.ReLU().eval(), (torch.zeros(2),), dynamo=True, verbose=False, **options)
    assert program is not None
    return [node.op_type for node in program.model_proto.graph.node]


def test_it_is_made_once_and_an_export_keeps_its_translations_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    asked: list[int] = []
    list_them = _registration.onnxscript_apis.get_torchlib_ops

    def counted() -> Any:
        asked.append(1)
        return list_them()

    monkeypatch.setattr(_registration.onnxscript_apis, "get_torchlib_ops", counted)
    own = {torch.ops.aten.relu.default: lambda x: opset18.LeakyRelu(x, alpha=0.0)}
    assert exported() == ["Relu"]
    assert exported(custom_translation_table=own) == ["LeakyRelu"]
    assert exported() == ["Relu"]
    assert len(asked) == 1


def test_what_is_replaced_meanwhile_is_there_again_afterwards() -> None:
    before = _registration.ONNXRegistry.__dict__["from_torchlib"]
    with pytest.raises(ZeroDivisionError), one_registry():
        raise ZeroDivisionError
    assert _registration.ONNXRegistry.__dict__["from_torchlib"] is before
