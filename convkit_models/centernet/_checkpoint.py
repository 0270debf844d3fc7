"""Reading a checkpoint: safely, and into one canonical form whatever wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convkit.errors import CheckpointError, listing
from convkit.weights import find_state_dict, identify, read_weights
from convkit_models.centernet.networks import FAMILIES, Family

__all__ = ["Checkpoint", "read_checkpoint"]

_IGNORED_PREFIX = "base.fc."
_COUNTER = "num_batches_tracked"
_DEPTH, _FEW = 6, 8


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file: float32 tensors with memory of their own, int64 for ``num_batches_tracked``.

    ``serialisation`` is what `convkit.weights.identify` returns; ``notes`` say what was normalised.
    """

    state: dict[str, Tensor]
    serialisation: str
    epoch: int | None = None
    notes: tuple[str, ...] = field(default=())


def read_checkpoint(path: Path, entry: str = "") -> Checkpoint:
    """Read ``path`` without running any code from it.

    Accepted are the files of the CenterNet code (``epoch``, ``state_dict``, perhaps ``optimizer``),
    and the weights at any other place of a file, with any prefix, as `convkit.weights.find_state_dict`
    finds them; both formats of torch.save, and safetensors; files from before ``num_batches_tracked``;
    float16, bfloat16 and float64 weights, which become float32; and the never used ``base.fc.*``.
    ``entry`` chooses one of several copies in the file.

    Raises:
        CheckpointError: the file is not a checkpoint, needs code to be run, is damaged, or has
            entries that cannot be weights (NaN, infinity, negative variances, integers, no tensor at all).
    """
    content = read_weights(path)
    found = find_state_dict(content, str(path), marks=_marks(content), entry=entry)
    notes = list(found.notes)
    named = {name: value for name, value in found.tensors.items() if not name.startswith(_IGNORED_PREFIX)}
    if dropped := len(found.tensors) - len(named):
        notes.append(f"left out {dropped} entries {_IGNORED_PREFIX}*, which no output depends on")
    state = _normalise_values(named, path, notes)
    _add_counters(state, notes)
    epoch = content.get("epoch") if isinstance(content, Mapping) else None
    return Checkpoint(state, identify(path), _whole(epoch), tuple(notes))


def read_shapes(path: Path, entry: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights that `read_checkpoint` would return, without a look at their values.

    Raises:
        CheckpointError: the file is not a checkpoint, or needs code to be run.
    """
    content = read_weights(path)
    tensors = find_state_dict(content, str(path), marks=_marks(content), entry=entry).tensors
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.startswith(_IGNORED_PREFIX)}


def _marks(content: Any) -> tuple[str, ...]:
    """Return the entries of the family of networks that the file has the most of, under whatever prefix."""
    names = {name for name in _names(content) if "." in name}

    def found(family: Family) -> float:
        return sum(any(n.endswith(f".{mark}") for n in names) or mark in names for mark in family.entries) / len(
            family.entries
        )

    return max(FAMILIES, key=found).entries


def _names(content: Any, depth: int = 0) -> Iterator[str]:
    """Yield the text keys of a mapping and of those within."""
    if isinstance(content, Mapping) and depth < _DEPTH:
        for name, value in content.items():
            if isinstance(name, str):
                yield name
            yield from _names(value, depth + 1)
    elif isinstance(content, list | tuple) and len(content) <= _FEW:
        for value in content:
            yield from _names(value, depth + 1)


def _normalise_values(named: Mapping[str, Tensor], path: Path, notes: list[str]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    unusable: list[str] = []
    not_finite: list[str] = []
    converted: dict[str, int] = {}
    for name, value in named.items():
        counter = name.endswith(f".{_COUNTER}")
        if not _is_plain(value) or not (counter or value.is_floating_point()):
            unusable.append(f"{name} ({_describe(value)})")
            continue
        if not counter and value.dtype != torch.float32:
            kind = _describe_dtype(value)
            converted[kind] = converted.get(kind, 0) + 1
        tensor = value.detach().to(torch.int64 if counter else torch.float32, copy=True).contiguous()
        if not counter and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            not_finite.append(f"{name} ({bad} of {tensor.numel()} values)")
        state[name] = tensor
    if unusable:
        raise CheckpointError(
            f"{path} holds entries that cannot be weights of this network: {listing(unusable)}.",
            hint="Give the checkpoint that training wrote, before any quantisation or conversion.",
        )
    if not_finite:
        raise CheckpointError(
            f"{path} holds NaN or infinite weights: {listing(not_finite)}.",
            hint="Training diverged or the file is damaged: give an earlier checkpoint, or download it again.",
        )
    if negative := [name for name, value in state.items() if name.endswith(".running_var") and bool((value < 0).any())]:
        raise CheckpointError(
            f"{path} holds negative variances of a BatchNorm: {listing(negative)}.",
            hint="No training writes these: the file is damaged, or was edited. Give an earlier one.",
        )
    notes += [f"converted {count} entries from {kind} to float32" for kind, count in converted.items()]
    return state


def _is_plain(value: Tensor) -> bool:
    """Tell whether a tensor is dense, has values, and has them all in the file (an expanded one has not)."""
    return (
        value.layout == torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
        and 0 < value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _add_counters(state: dict[str, Tensor], notes: list[str]) -> None:
    """Add the batch counters that files from before torch 0.4.1 lack; they play no part in inference."""
    layers = [name.removesuffix("running_var") for name in state if name.endswith(".running_var")]
    missing = [layer + _COUNTER for layer in layers if layer + _COUNTER not in state]
    state.update({name: torch.zeros((), dtype=torch.int64) for name in missing})
    if missing:
        notes.append(f"added {len(missing)} entries {_COUNTER}, which older files lack")


def _whole(epoch: Any) -> int | None:
    return int(epoch) if isinstance(epoch, (int, float, np.integer, np.floating)) and epoch == epoch // 1 else None


def _describe(value: Tensor) -> str:
    if value.layout != torch.strided:
        return "sparse"
    return f"{_describe_dtype(value)} {tuple(value.shape)}"


def _describe_dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
