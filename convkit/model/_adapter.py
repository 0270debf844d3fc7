"""What an adapter is: it reads a checkpoint and says everything that convkit must know of the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from convkit.model._dims import Dim
from convkit.model._spec import BATCH, ModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Adapter", "Option", "Request", "SourceModel"]


@dataclass(frozen=True)
class Option:
    """A setting of one adapter, given as ``--set NAME=VALUE``; its type is that of ``default``.

    ``default`` is an int, float, bool, str or a tuple of floats; ``choices`` empty means any value.
    """

    name: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What the user asked an adapter to load.

    ``weights`` is a file, or a folder for adapters with ``weights_folder``; ``names`` is None for the adapter's own
    class names.
    """

    weights: Path
    form: str
    dims: tuple[Dim, ...]
    names: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class SourceModel:
    """The model as the checkpoint defines it.

    ``module`` is on the CPU, in float32 and eval mode. ``reference`` runs it *unpatched* on a mapping of input tensors
    (float inputs in any float dtype, others as declared) and returns the outputs under the names of ``spec.outputs``:
    it defines what the engine has to compute. Threads call it side by side, each with a copy of the module that shares
    its parameters and buffers. Under the export patches the module itself takes the inputs in the order
    of ``spec.inputs`` and returns the outputs as a tuple in the order of ``spec.outputs``.

    ``unused`` are those of the adapter's options that change nothing for this model, each with the reason, with which a
    user who sets one is refused.
    """

    module: torch.nn.Module
    spec: ModelSpec
    reference: Callable[[torch.nn.Module, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
    unused: Mapping[str, str] = field(default_factory=dict)


class Adapter(ABC):
    """One family of models. Subclasses declare themselves and implement `load` and `samples`.

    ``forms`` are the output forms, the default first; ``dims`` the named dimensions with their default ranges;
    ``options`` the settings that ``--set`` accepts; ``weights_folder`` whether ``--weights`` may be a folder;
    ``metric_drop`` by how much the task metric (AP) may fall in each precision.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    forms: ClassVar[tuple[str, ...]] = ("default",)
    dims: ClassVar[tuple[Dim, ...]] = (Dim(BATCH, 1, 1, 8),)
    options: ClassVar[tuple[Option, ...]] = ()
    opset: ClassVar[int] = 20
    weights_folder: ClassVar[bool] = False
    metric_drop: ClassVar[Mapping[str, float]] = MappingProxyType({"fp16": 0.002, "bf16": 0.002, "int8": 0.01})

    def defaults(self, weights: Path, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return defaults that follow from the checkpoint, by name: a `Dim` for a dimension, a value for an option.

        ``options`` are those that were given, or the adapter's. What is not returned, by default everything, has the
        default that the adapter declares. This is called before the conversion and has to be quick; an error of a
        checkpoint here is left to `load`.
        """
        del weights, options
        return {}

    @abstractmethod
    def load(self, request: Request) -> SourceModel:
        """Read the checkpoint and return the model.

        Raises:
            CheckpointError: the file is not a safe checkpoint of one of this adapter's networks.
        """

    @abstractmethod
    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[Any]:
        """Return ``count`` raw inputs that look like what the model will see; used where the user gives none.

        They are what the preprocess takes: for images uint8 [H, W, 3] in BGR order, such as
        `convkit.synthetic_scenes` draws.
        """
