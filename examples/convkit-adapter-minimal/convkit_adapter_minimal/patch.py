"""The export patch: ONNX knows no dicts, so the network has to return a tuple while it is exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from convkit import ModulePatch, exactly
from convkit_adapter_minimal.checkpoint import head
from convkit_adapter_minimal.network import DigitNet

__all__ = ["single_output"]


def single_output(form: str) -> ModulePatch:
    """Return the patch that leaves the output of one form; the embedding is for training only."""

    def forward(
        module: nn.Module, original: Callable[..., Mapping[str, torch.Tensor]], images: torch.Tensor
    ) -> tuple[torch.Tensor]:
        return (head(original(images), form),)

    return ModulePatch(
        name="minimal.single-output",
        reason="the network returns a dict, which ONNX does not have",
        match=lambda path, module: isinstance(module, DigitNet),
        forward=forward,
        expect=exactly(1),
    )
