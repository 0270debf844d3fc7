"""The node of ``convkit::DCNv2`` in TensorRT-RTX, whose parser is genuine: a plugin that only takes its attributes.

TensorRT-RTX has no plugins that are compiled ahead of time; this one stands in for what NVIDIA's class is to a reader
of the parsed network: an object with its attributes in ``attrs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit_plugins.dcnv2.tensorrt import DOMAIN, FIELDS, OP_TYPE, AotSettings

PLACE = "support.aot_on_rtx:register"


def register(api: Any, failures: list[str]) -> Any:
    """Register the plugin."""
    bases = (api.IPluginV3, api.IPluginV3OneCore, api.IPluginV3OneBuild, api.IPluginV3OneRuntime)
    names = list(FIELDS)

    class Plugin(*bases):  # type: ignore[misc]
        def __init__(self, attrs: dict[str, Any]) -> None:
            for base in bases:
                base.__init__(self)
            self.attrs = attrs
            self.plugin_name, self.plugin_version, self.plugin_namespace, self.num_outputs = OP_TYPE, "1", DOMAIN, 1

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Plugin(self.attrs)

        def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
            return [types[0]]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Any, builder: Any) -> list[Any]:
            shape = api.DimsExprs(4)
            shape[0] = inputs[0][0]
            shape[1] = builder.constant(AotSettings.from_fields(self.attrs).layer.filters)
            shape[2], shape[3] = inputs[1][2], inputs[1][3]
            return [shape]

    class Creator(api.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = OP_TYPE, "1", DOMAIN
            self.field_names = api.PluginFieldCollection(
                [api.PluginField(name, np.array([]), api.PluginFieldType.INT32) for name in names]
            )

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            return Plugin({field.name: np.array(field.data) for field in fields if field.name in names})

    creator = Creator()
    assert api.get_plugin_registry().register_creator(creator, DOMAIN)
    return creator
