"""A small plugin of TensorRT for ``Inverse``, an operator of ONNX Runtime: ``register_<fault>`` plants a fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the child process that parses is quicker without it
    from torch import Tensor

PLACE = "support.inverse_plugin"
DOMAIN = "com.microsoft"
"""Domain of the operator, where the parser looks for a plugin of its name."""
FIELD = np.array([3, 4], np.int32)


def __getattr__(name: str) -> Callable[[Any, list[str]], Any]:
    if not name.startswith("register"):
        raise AttributeError(name)
    return lambda api, failures: _register(api, failures, name.removeprefix("register").removeprefix("_"))


def inverse(inputs: Sequence[Tensor], fields: dict[str, list[int]]) -> Tensor:
    """Return the inverses of matrices [..., m, m]."""
    assert fields == {"numbers": [3, 4]}
    import torch

    return torch.linalg.inv(inputs[0])


def transposed(inputs: Sequence[Tensor], fields: dict[str, list[int]]) -> Tensor:
    """Return something else than the inverses."""
    import torch

    return torch.linalg.inv(inputs[0]).mT


def _register(api: Any, failures: list[str], fault: str) -> Any:
    if fault == "nothing":
        raise RuntimeError("there is no such library")
    bases = (api.IPluginV3, api.IPluginV3OneCore, api.IPluginV3OneBuild, api.IPluginV3OneRuntime)

    def perhaps(name: str) -> None:
        if fault.removeprefix("silent_") == name:
            if not fault.startswith("silent_"):
                failures.append(f"Inverse: {name} was told to fail")
            raise ValueError("planted")

    class Plugin(*bases):  # type: ignore[misc]
        def __init__(self) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace, self.num_outputs = "Inverse", "1", DOMAIN, 1

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Plugin()

        def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
            perhaps("get_output_data_types")
            return [types[0]]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Any, builder: Any) -> list[Any]:
            perhaps("get_output_shapes")
            return [api.DimsExprs(inputs[0])]

        def supports_format_combination(self, place: int, tensors: Sequence[Any], inputs: int) -> bool:
            perhaps("supports_format_combination")
            return bool(tensors[place].desc.format == api.TensorFormat.LINEAR)

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            perhaps("configure_plugin")

        def get_workspace_size(self, inputs: Any, outputs: Any) -> int:
            perhaps("get_workspace_size")
            return 0

        def get_valid_tactics(self) -> list[int]:
            return []

        def get_fields_to_serialize(self) -> Any:
            perhaps("get_fields_to_serialize")
            return api.PluginFieldCollection([api.PluginField("numbers", FIELD, api.PluginFieldType.INT32)])

        def set_tactic(self, tactic: int) -> None:
            pass

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            pass

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def enqueue(self, *arguments: Any) -> int:
            return 0

    class Creator(api.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = "Inverse", "1", DOMAIN
            self.field_names = api.PluginFieldCollection([])

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            perhaps("create_plugin")
            return Plugin()

    creator = Creator()
    assert api.get_plugin_registry().register_creator(creator, DOMAIN)
    return creator
