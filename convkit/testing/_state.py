"""What a module is made of, so that one sees whether something was left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from convkit.model import Patch

__all__ = ["module_state", "owner_state", "state_changes"]

_ABSENT = object()


def module_state(model: torch.nn.Module) -> dict[str, Any]:
    """Return every attribute of every module by path, entries of dictionaries (parameters, hooks) one by one."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            label = f"{path}.{name}" if path else name
            state[label] = value
            if isinstance(value, dict):
                state.update({f"{label}[{key!r}]": item for key, item in value.items()})
    return state


def owner_state(patches: list[Patch]) -> dict[str, Any]:
    """Return the attributes that the patches replace outside the model, such as functions of a library."""
    from convkit.model import AttributePatch

    return {
        f"{getattr(patch.owner, '__name__', patch.owner)}.{patch.attribute}": vars(patch.owner).get(
            patch.attribute, _ABSENT
        )
        for patch in patches
        if isinstance(patch, AttributePatch)
    }


def state_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of what came, went or is another object now."""
    names = dict.fromkeys((*before, *after))
    return [name for name in names if before.get(name, _ABSENT) is not after.get(name, _ABSENT)]
