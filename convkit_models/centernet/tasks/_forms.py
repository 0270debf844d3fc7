"""Reference and patch of every task: the network returns dicts, the graph returns the output form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from convkit_models.centernet._names import INPUT
from convkit_models.centernet.tasks._shared import OUTPUT_PATCH

if TYPE_CHECKING:
    from torch import Tensor, nn

    from convkit import ModulePatch

    Compose = Callable[[dict[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]
    """From the raw maps, and a specification, to the outputs of the form."""

__all__ = ["composed_patch", "composed_reference", "output_patch", "reference"]


def composed_reference(
    compose: Compose, spec: Mapping[str, Any]
) -> Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what runs the untouched network and composes the outputs of a specification."""
    inputs = spec.get("inputs", (INPUT,))

    def run(module: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return compose(module(*(values[name] for name in inputs))[-1], spec)

    return run


def composed_patch(compose: Compose, spec: Mapping[str, Any]) -> ModulePatch:
    """Return the patch that makes the network return the outputs of a specification as a tuple."""
    from convkit import ModulePatch, exactly

    def forward(
        module: nn.Module,
        original: Callable[..., list[dict[str, Tensor]]],
        images: Tensor,
        first: Tensor | None = None,
        second: Tensor | None = None,
    ) -> Any:
        before = [tensor for tensor in (first, second) if tensor is not None]
        return tuple(compose(original(images, *before)[-1], spec).values())

    def forward_images(module: nn.Module, original: Callable[..., list[dict[str, Tensor]]], images: Tensor) -> Any:
        return forward(module, original, images)

    return ModulePatch(
        name=OUTPUT_PATCH,
        reason=f"the network returns a list of dicts; the graph needs the form {spec['form']!r}",
        match=lambda path, module: path == "",
        forward=forward if len(spec.get("inputs", ())) > 1 else forward_images,
        expect=exactly(1),
    )


def reference(spec: Mapping[str, Any]) -> Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what runs the untouched network and returns the maps of ``spec["heads"]``."""
    return composed_reference(_maps, spec)


def output_patch(spec: Mapping[str, Any]) -> ModulePatch:
    """Return the patch that makes the network return the maps of ``spec["heads"]`` as a tuple."""
    return composed_patch(_maps, spec)


def _maps(heads: dict[str, Tensor], spec: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: heads[name] for name in spec["heads"]}
