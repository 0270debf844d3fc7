"""The types in which values enter and leave a program: casts at the edges of a typed graph are left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from convkit.backends.torch._node import torch_dtype

if TYPE_CHECKING:
    from convkit.backends.torch._program import Step

__all__ = ["NARROW", "entries", "narrow_results"]

NARROW = (torch.float16, torch.bfloat16)


def casts_to(step: Step) -> torch.dtype | None:
    """Return the type that a Cast makes; None for another operator."""
    return torch_dtype(step.node.attributes["to"]) if step.node.op_type == "Cast" and not step.node.domain else None


def entries(
    steps: Sequence[Step], inputs: Mapping[str, torch.dtype], outputs: Collection[str]
) -> dict[str, torch.dtype]:
    """Return the 16-bit type of each float32 input that nothing but casts to that type reads."""
    found = {}
    for name, dtype in inputs.items():
        kinds = {casts_to(step) for step in steps if name in step.inputs}
        if dtype == torch.float32 and name not in outputs and len(kinds) == 1 and (kind := kinds.pop()) in NARROW:
            found[name] = kind
    return {name: kind for name, kind in found.items() if kind is not None}


def narrow_results(
    steps: Sequence[Step], outputs: Mapping[str, torch.dtype], types: Mapping[str, torch.dtype | str]
) -> dict[str, str]:
    """Return the 16-bit value behind each float32 output that a cast of it makes, and nothing else reads."""
    read = {name for step in steps for name in step.inputs}
    return {
        step.node.outputs[0]: step.inputs[0]
        for step in steps
        if casts_to(step) == outputs.get(step.node.outputs[0]) == torch.float32
        and step.node.outputs[0] not in read
        and types.get(step.inputs[0]) in NARROW
    }
