"""The plugin for TensorRT-RTX: a creator named ``DeformConv``, to which its parser hands the standard node unchanged.

The plan holds the settings, not the code: a process that runs it registers the plugin, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convkit.errors import PluginError
from convkit_plugins.dcnv2.tensorrt._execution import Execution, Place, prepare, workspace_bytes
from convkit_plugins.dcnv2.tensorrt._guard import Failures, callback
from convkit_plugins.dcnv2.tensorrt._settings import FIELDS, INSTEAD, Settings

__all__ = ["NAME", "VERSION", "make_plugin_classes", "register_creator"]

NAME, VERSION, NAMESPACE = "DeformConv", "1", ""
_VECTOR = 8
"""Channels of a vector of the format HWC8."""

_creators: dict[str, Any] = {}
"""The creator of each bindings' module: TensorRT keeps no hold of it."""


def register_creator(api: Any, failures: list[str]) -> Any:
    """Register the creator with TensorRT, once in a process, and return it.

    Args:
        api: the module of NVIDIA's bindings.
        failures: gets a text for everything that fails in a callback.

    Raises:
        PluginError: another plugin has the name.
    """
    creator = _creators.get(api.__name__)
    if creator is None:
        creator = make_plugin_classes(api)[1](Failures())
        registry = api.get_plugin_registry()
        if not registry.register_creator(creator, NAMESPACE):
            raise PluginError(
                f"Another library of this process has registered a TensorRT plugin {NAME!r}, version {VERSION}.",
                hint=f"Leave that library out, or build the engine without a plugin. {INSTEAD}",
            )
        _creators[api.__name__] = creator
    creator.failures.tell(failures)
    return creator


def make_plugin_classes(api: Any) -> tuple[type[Any], type[Any]]:
    """Return the classes of plugin and creator, derived from those of NVIDIA's bindings.

    Of ``api`` only the base classes are needed, ``DataType``, ``TensorFormat``, and what makes fields and shapes.
    """
    names = {api.DataType.FLOAT: "float32", api.DataType.HALF: "float16", api.DataType.BF16: "bfloat16"}
    formats = api.TensorFormat
    bases = (api.IPluginV3, api.IPluginV3OneCore, api.IPluginV3OneBuild, api.IPluginV3OneRuntime)

    def fields(values: dict[str, list[int]]) -> Any:
        return api.PluginFieldCollection(
            [
                api.PluginField(name, np.array(numbers, np.int32), api.PluginFieldType.INT32)
                for name, numbers in values.items()
            ]
        )

    def dtype_of(kinds: Sequence[Any]) -> str:
        if kinds[0] not in names or any(kind != kinds[0] for kind in kinds):
            found = ", ".join(str(kind).rpartition(".")[2] for kind in kinds)
            raise PluginError(
                f"its inputs are {found}; the kernels take float32, float16 or bfloat16, the same for all.",
                hint=INSTEAD,
            )
        return names[kinds[0]]

    def vectors(description: Any) -> bool:
        """Return whether a tensor of 16 bits can lie channels-last without gaps."""
        return bool(description.type != api.DataType.FLOAT and description.dims[1] % _VECTOR == 0)

    class Plugin(*bases):  # type: ignore[misc]
        """One layer; a copy for each execution context."""

        def __init__(self, settings: Settings, title: str, failures: Failures) -> None:
            for base in bases:
                base.__init__(self)
            self.settings, self.title, self.failures = settings, title, failures
            self.plugin_name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            self.num_outputs = 1
            self.shapes: tuple[tuple[int, ...], ...] = ()
            self.execution: Execution | None = None

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def copy(self) -> Any:
            """Return another plugin of the same layer; TensorRT deletes each that it gets, so none may come twice."""
            return Plugin(self.settings, self.title, self.failures)

        @callback(fallback=copy)
        def clone(self) -> Any:
            return self.copy()

        @callback()
        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            dtype_of(input_types)
            return [input_types[0]]

        @callback()
        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Any, builder: Any) -> list[Any]:
            del shape_inputs, builder
            self.settings.check([[_known(tensor[axis]) for axis in range(len(tensor))] for tensor in inputs])
            shape = api.DimsExprs(4)
            shape[0], shape[1], shape[2], shape[3] = inputs[0][0], inputs[1][0], inputs[2][2], inputs[2][3]
            return [shape]

        @callback(fallback=lambda self: False)
        def supports_format_combination(self, place: int, tensors: Sequence[Any], inputs: int) -> bool:
            """Take x of 16 bits channels-last where that leaves no gaps, as the kernel for it needs it."""
            here, first = tensors[place].desc, tensors[0].desc
            if here.type != first.type or here.type not in names:
                return False
            if place == 0 and vectors(here):
                return bool(here.format == formats.HWC8)
            if place == inputs and vectors(here) and vectors(first):
                return here.format in (formats.HWC8, formats.LINEAR)
            return bool(here.format == formats.LINEAR)

        @callback()
        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            del outputs
            self.settings.check([[None if size < 0 else size for size in tensor.desc.dims] for tensor in inputs])

        @callback(fallback=lambda self: 0)
        def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
            del outputs
            weight = tuple(inputs[1].desc.dims)
            return workspace_bytes(self.settings.layer(weight), weight[1], names[inputs[1].desc.type])

        @callback()
        def get_valid_tactics(self) -> list[int]:
            return []

        @callback(fallback=lambda self: fields({}))
        def get_fields_to_serialize(self) -> Any:
            return fields(self.settings.to_fields())

        @callback(fallback=copy)
        def attach_to_context(self, context: Any) -> Any:
            del context
            return self.copy()

        @callback()
        def set_tactic(self, tactic: int) -> None:
            del tactic

        @callback()
        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            """Compile and load the kernels for these shapes."""
            self.shapes, self.execution = (), None
            x, weight, out = inputs[0], tuple(inputs[1].dims), outputs[0]
            shapes = [tuple(tensor.dims) for tensor in inputs]
            self.settings.check(shapes)
            expected = (x.dims[0], weight[0], *shapes[2][2:])
            if tuple(out.dims) != expected:
                raise PluginError(f"the output has the shape {list(out.dims)}, not {list(expected)}.", hint=INSTEAD)
            self.execution = prepare(
                self.settings.layer(weight),
                dtype_of([tensor.type for tensor in (*inputs, *outputs)]),
                self._place(x),
                self._place(out),
                mask=len(inputs) > 4,
            )
            self.shapes = (shapes[0], expected)

        @callback()
        def enqueue(
            self,
            input_desc: Sequence[Any],
            output_desc: Sequence[Any],
            inputs: Sequence[int],
            outputs: Sequence[int],
            workspace: int,
            stream: int,
        ) -> int:
            if self.shapes != (tuple(input_desc[0].dims), tuple(output_desc[0].dims)):
                self.on_shape_change(input_desc, output_desc)
            assert self.execution is not None
            self.execution.enqueue(inputs, outputs[0], workspace, stream)
            return 0

        def _place(self, description: Any) -> Place:
            last = description.format == formats.HWC8
            if not last and description.format != formats.LINEAR:
                raise PluginError(f"a tensor has the format {description.format}, which the kernels do not read.")
            return Place(tuple(description.dims), last)

    class Creator(api.IPluginCreatorV3One):  # type: ignore[misc]
        """Makes the plugin of a node, and again of what a plan holds of it."""

        def __init__(self, failures: Failures) -> None:
            api.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            self.title, self.failures = NAME, failures
            self.field_names = fields({name: [] for name in FIELDS})

        def create_plugin(self, name: str, collection: Any, phase: Any) -> Any:
            """Return the plugin for a node, None where the kernels cannot serve it."""
            del phase
            try:
                settings = Settings.from_fields({field.name: np.ravel(field.data).tolist() for field in collection})
                return Plugin(settings, f"{NAME} {name!r}", self.failures)
            except Exception as error:
                self.failures.add(f"{NAME} {name!r}", error)
                return None

    return Plugin, Creator


def _known(size: Any) -> int | None:
    """Return a size where it is fixed."""
    return int(size.get_constant_value()) if size.is_constant() else None
