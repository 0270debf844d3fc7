"""The creator of DeformConv with a callback that raises: ``register_<callback>`` is the function that registers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from convkit_plugins.dcnv2.tensorrt import _creator

if TYPE_CHECKING:  # the child process that parses is quicker without it
    from torch import Tensor

PLANTED = "planted fault"
CALLBACKS = (
    *("clone", "get_output_data_types", "get_output_shapes", "supports_format_combination", "configure_plugin"),
    *("get_workspace_size", "get_valid_tactics", "get_fields_to_serialize"),
)
"""What TensorRT calls while it parses and builds."""


def __getattr__(name: str) -> Callable[[Any, list[str]], Any]:
    callback = name.removeprefix("register_")
    if callback not in CALLBACKS or callback == name:
        raise AttributeError(name)

    def register(api: Any, failures: list[str]) -> Any:
        original = _creator.make_plugin_classes

        def planted(api: Any) -> tuple[type[Any], type[Any]]:
            plugin, creator = original(api)

            def fail(self: Any, *arguments: Any) -> Any:
                raise ValueError(PLANTED)

            getattr(plugin, callback).__wrapped__ = fail
            return plugin, creator

        _creator.make_plugin_classes = planted
        try:
            return _creator.register_creator(api, failures)
        finally:
            _creator.make_plugin_classes = original

    return register


def register_after_another(api: Any, failures: list[str]) -> Any:
    """Register the creator where another has taken its name."""
    other = _creator.make_plugin_classes(api)[1](None)
    assert api.get_plugin_registry().register_creator(other, "")
    return other, _creator.register_creator(api, failures)


def register_twice(api: Any, failures: list[str]) -> Any:
    """Register the creator, and again."""
    first = _creator.register_creator(api, failures)
    assert _creator.register_creator(api, failures) is first
    return first


def wrong_reference(inputs: list[Tensor], fields: dict[str, list[int]]) -> Tensor:
    """Return what a layer with dilations swapped for padding would."""
    from convkit_plugins.dcnv2.tensorrt import deform_conv

    return deform_conv(inputs, {**fields, "dilations": fields["dilations"][::-1]})
