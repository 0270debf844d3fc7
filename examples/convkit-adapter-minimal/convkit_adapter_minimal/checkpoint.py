"""From the checkpoint file to a `SourceModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convkit import CheckpointError, ModelSpec, Request, SourceModel, TensorSpec, exactly, read_weights
from convkit.errors import SettingError
from convkit_adapter_minimal.network import SIZE, DigitNet

__all__ = ["load", "read"]


def read(path: Path) -> DigitNet:
    """Return the network in a checkpoint ``{"arch": {"widths", "classes"}, "weights": state dict}``.

    Raises:
        CheckpointError: the file is anything else. Nothing in it is ever executed.
    """
    content = read_weights(path)
    try:
        net = DigitNet(tuple(content["arch"]["widths"]), content["arch"]["classes"])
        net.load_state_dict(content["weights"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds no digit classifier: {error}", hint="Give a file that train.py wrote."
        ) from error
    return net.float().eval()


def load(request: Request) -> SourceModel:
    """Return the model and everything that convkit must know of it."""
    net = read(request.weights)
    classes = net.head.out_features
    names = request.names or tuple(str(digit) for digit in range(classes))
    if len(names) != classes:
        raise SettingError(
            f"{len(names)} class names were given; the network has {classes} classes.", hint="Give one name a class."
        )

    def reference(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {request.form: head(module(inputs["images"]), request.form)}

    spec = ModelSpec(
        variant=f"conv{len(net.blocks)}",
        dims=request.dims,
        inputs=(TensorSpec("images", ("batch", 1, SIZE, SIZE)),),
        outputs=(TensorSpec(request.form, ("batch", classes)),),
        preprocess={"kind": "minimal.grey", "size": SIZE, "ink": request.options["ink"]},
        decode={"kind": "minimal.classify", "output": request.form, "classes": list(names)},
        classes=names,
        info={"parameters": sum(parameter.numel() for parameter in net.parameters())},
        expect={"minimal.hard-swish": exactly(len(net.blocks))},
    )
    return SourceModel(net, spec, reference)


def head(result: Mapping[str, Any], form: str) -> torch.Tensor:
    """Return the tensor that an output form promises, from what the network returns."""
    logits: torch.Tensor = result["logits"]
    return logits.softmax(1) if form == "probabilities" else logits
