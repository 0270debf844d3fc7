"""Reference and patch of tasks whose graph returns the raw maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from convkit import ModulePatch, exactly
from convkit_models.centernet._names import INPUT
from convkit_models.centernet.tasks._shared import OUTPUT_PATCH

__all__ = ["heads_patch", "heads_reference"]


def heads_reference(names: Sequence[str]) -> Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what runs the untouched network and returns these maps."""

    def run(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = module(inputs[INPUT])[-1]
        return {name: heads[name] for name in names}

    return run


def heads_patch(names: Sequence[str]) -> ModulePatch:
    """Return the patch that makes the network return these maps as a tuple."""

    def forward(module: nn.Module, original: Callable[[Tensor], list[dict[str, Tensor]]], images: Tensor) -> Any:
        heads = original(images)[-1]
        return tuple(heads[name] for name in names)

    return ModulePatch(
        name=OUTPUT_PATCH,
        reason="the network returns a list of dicts; the graph needs the form 'heads'",
        match=lambda path, module: path == "",
        forward=forward,
        expect=exactly(1),
    )
