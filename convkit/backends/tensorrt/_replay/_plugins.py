"""Plugin layers: each is replayed by the reference that its author declares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from convkit.backends._tensorrt_plugin import load_function, own_plugins
from convkit.backends.tensorrt._flavour import FLAVOURS
from convkit.backends.tensorrt._replay._call import LayerCall, Replay

__all__ = ["plugin_replay"]


@cache
def plugin_replay(name: str) -> Replay | None:
    """Return the replay of the layers of a plugin, None where no plugin of convkit brings a reference for them."""
    places = {plugin.reference for flavour in FLAVOURS for plugin in own_plugins(flavour) if plugin.plugin == name}
    place = next(iter(places - {""}), None)
    if place is None:
        return None
    function = load_function(place)

    def replay(call: LayerCall) -> torch.Tensor | Sequence[torch.Tensor]:
        result: torch.Tensor | Sequence[torch.Tensor] = function(call.inputs, call.attribute("fields"))
        return result

    return replay
