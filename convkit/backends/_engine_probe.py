"""Small models on which ``convkit doctor --tensorrt`` tries the ways that a plugin offers to engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convkit.errors import PluginError
from convkit.plugins import manager

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from convkit.model import Option

__all__ = ["EngineProbe", "engine_probes", "ways_of"]


@dataclass(frozen=True)
class EngineProbe:
    """A model on which each choice of an option is tried on the engines of this machine.

    The choices of ``option``, a setting of the plugin, are the ways to fit the model to an engine; the rewrites of
    phase *target* do it. The default choice is not tried: it stands for one of the others.

    ``model(dtype)`` returns the ONNX model with floating tensors of ``float16``, ``float32`` or ``float64``. Its
    weights are values that float16 holds, so that they are the same in each. Axis 0 of every input and output is the
    batch and has a name. ``inputs(batch)`` returns float32 values by name, which float16 holds as well.

    ``batches`` are the lowest, best and highest batch of the engine. ``timed`` says that the model has the size of real
    work, so that its latency tells the ways apart; the others are small and cover settings.
    """

    name: str
    option: str
    model: Callable[[str], onnx.ModelProto]
    inputs: Callable[[int], Mapping[str, np.ndarray]]
    batches: tuple[int, int, int] = (1, 2, 3)
    timed: bool = False


def engine_probes() -> list[EngineProbe]:
    """Return the probes of all plugins.

    Raises:
        PluginError: a plugin fails.
    """
    return [probe for group in manager().gather("convkit_engine_probes", of=EngineProbe).values() for probe in group]


def ways_of(probe: EngineProbe) -> tuple[str, ...]:
    """Return the choices to try: those of the probe's option but the default.

    Raises:
        PluginError: no plugin has such an option, or it has no choices.
    """
    found = manager().gather("convkit_options").values()
    options: dict[str, Option] = {option.name: option for group in found for option in group}
    option = options.get(probe.option)
    if option is None or not option.choices:
        raise PluginError(
            f"The probe {probe.name!r} is about the option {probe.option!r}, which no plugin offers with choices.",
            hint="Return it, with its choices, from convkit_options.",
        )
    return tuple(choice for choice in option.choices if choice != option.default)
