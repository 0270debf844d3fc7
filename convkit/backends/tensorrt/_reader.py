"""A network of TensorRT read back through its Python bindings, layer by layer."""

from __future__ import annotations

import ctypes
import re
from typing import Any, BinaryIO

from convkit.backends.tensorrt._layers import ATTENTION, LAYERS, PLUGIN
from convkit.errors import ConversionError, PluginError

__all__ = ["network_table"]


def network_table(api: Any, network: Any, weights: BinaryIO) -> dict[str, Any]:
    """Return a network as values fit for JSON, and append the weights of its layers to a file.

    Raises:
        ConversionError: there are weights that cannot be read.
        PluginError: a plugin does not say what it serialises.
    """
    return _Reader(api, weights).table(network)


class _Reader:
    def __init__(self, api: Any, weights: BinaryIO) -> None:
        self.api, self.weights = api, weights
        self.alive: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.tensors: list[tuple[str, str, list[int] | None]] = []
        self.groups: dict[int, str] = {}

    def table(self, network: Any) -> dict[str, Any]:
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        return {
            "inputs": [self._tensor(tensor) for tensor in inputs],
            "outputs": [self._tensor(tensor) for tensor in outputs],
            "shape_inputs": [tensor.name for tensor in inputs if tensor.is_shape_tensor],
            "layers": [self._layer(network.get_layer(index)) for index in range(network.num_layers)],
            "tensors": self.tensors,
        }

    def _tensor(self, tensor: Any) -> int:
        """Return the number of a tensor; wrappers are kept alive, so that their identities do not come again."""
        if id(tensor) not in self.numbers:
            self.alive.append(tensor)
            self.numbers[id(tensor)] = len(self.tensors)
            self.tensors.append((tensor.name, tensor.dtype.name, _dimensions(tensor.shape)))
        return self.numbers[id(tensor)]

    def _layer(self, layer: Any) -> dict[str, Any]:
        kind = layer.type.name
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        match = re.match(r"\[ONNX Layer: (.*)\]$", layer.metadata, flags=re.DOTALL)
        entry: dict[str, Any] = {
            "name": layer.name,
            "type": kind,
            "node": match.group(1).split(" | ")[0] if match else "",
            "inputs": [None if tensor is None else self._tensor(tensor) for tensor in inputs],
            "outputs": [self._tensor(tensor) for tensor in outputs if tensor is not None],
            "attributes": {},
            "weights": {},
            "group": "",
        }
        known = LAYERS.get(kind)
        if known is not None:
            layer.__class__ = getattr(self.api, known.cls)
            entry["attributes"] = {name: _plain(_ask(layer, name)) for name in known.attributes}
            entry["weights"] = {name: self._weights(getattr(layer, name)) for name in known.weights}
            if known.owner:
                owner = getattr(layer, known.owner)
                entry["group"] = self._group(owner)
                if kind == "ATTENTION_INPUT":
                    entry["attributes"] = {name: _plain(_ask(owner, name)) for name in ATTENTION}
            if kind == "PLUGIN_V3":
                entry["attributes"] = self._plugin(layer.plugin)
        self.alive.append(layer)
        return entry

    def _plugin(self, plugin: Any) -> dict[str, Any]:
        """Return what a plugin says of itself, and the fields that it serialises (none where it has no such method).

        NVIDIA's class for plugins that are compiled ahead of time serialises nothing: its attributes are in ``attrs``.
        """
        core = plugin.get_capability_interface(self.api.PluginCapabilityType.CORE)
        attributes = getattr(core, "attrs", None)
        if isinstance(attributes, dict):
            self.alive.append(core)
            return {name: getattr(core, name, "") for name in PLUGIN} | {
                "fields": {name: _plain_field(value) for name, value in attributes.items()}
            }
        runtime = plugin.get_capability_interface(self.api.PluginCapabilityType.RUNTIME)
        try:
            fields = runtime.get_fields_to_serialize() if hasattr(runtime, "get_fields_to_serialize") else ()
        except Exception as error:
            name = getattr(core, "plugin_name", "")
            raise PluginError(
                f"The TensorRT plugin {name!r} does not say what it serialises: {type(error).__name__}: {error}",
                hint="Report it to its author.",
            ) from error
        self.alive += [core, runtime, fields]
        return {name: getattr(core, name, "") for name in PLUGIN} | {
            "fields": {field.name: _plain_field(field.data) for field in fields}
        }

    def _group(self, owner: Any) -> str:
        if id(owner) not in self.groups:
            self.alive.append(owner)
            self.groups[id(owner)] = f"{owner.name} #{len(self.groups)}"
        return self.groups[id(owner)]

    def _weights(self, weights: Any) -> tuple[str, int, int, int]:
        """Write weights; return their type, number of items, first byte and number of bytes."""
        start = self.weights.tell()
        if hasattr(weights, "tobytes"):
            data = weights.tobytes()
            name = {"float32": "FLOAT", "float16": "HALF"}.get(weights.dtype.name, weights.dtype.name.upper())
            count = weights.size
        else:
            name, count, data = weights.dtype.name, weights.size, _raw_bytes(weights)
        self.weights.write(data)
        return name, count, start, len(data)


def _raw_bytes(weights: Any) -> bytes:
    """Return the bytes of weights whose type numpy lacks.

    The bindings offer no other way than the C++ structure (type, pointer, count) that the Python object points to;
    type and count must be those that the object itself reports.
    """
    bits = {"BF16": 16, "FP8": 8, "INT4": 4, "FP4": 4, "E8M0": 8}[weights.dtype.name]
    address = ctypes.c_void_p.from_address(id(weights) + object.__basicsize__).value
    if not address or (
        ctypes.c_int32.from_address(address).value != int(weights.dtype)
        or ctypes.c_int64.from_address(address + 16).value != weights.size
    ):
        raise ConversionError(f"Weights of type {weights.dtype.name} cannot be read back from this version.")
    pointer = ctypes.c_void_p.from_address(address + 8).value
    return b"" if not pointer else ctypes.string_at(pointer, (weights.size * bits + 7) // 8)


def _ask(layer: Any, name: str) -> Any:
    """Return an attribute; None where the layer has it from an input instead, which some report by an exception."""
    try:
        return getattr(layer, name)
    except (AttributeError, RuntimeError, ValueError, TypeError):
        return None


def _plain_field(data: Any) -> Any:
    """Return the data of a plugin's field as a text or a list of numbers."""
    if isinstance(data, (bool, int, float)):
        return [data]
    if isinstance(data, str):
        return data
    if isinstance(data, bytes):
        return data.rstrip(b"\0").decode("utf-8", "replace")
    return data.reshape(-1).tolist() if hasattr(data, "tolist") else list(data)


def _plain(value: Any) -> Any:
    """Return enumerators as their names and dimensions as lists."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "__members__") and hasattr(value, "name"):
        return value.name
    return _dimensions(value)


def _dimensions(value: Any) -> list[Any] | None:
    """Return dimensions as a list; None where their number is not set."""
    try:
        return list(value)
    except (ValueError, RuntimeError):
        return None
