"""The smallest adapter: no preprocess, no decode, no patch; raw inputs are the input arrays themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from convkit import (
    Adapter,
    CheckpointError,
    Dim,
    ModelSpec,
    Request,
    SourceModel,
    TensorSpec,
    hookimpl,
    read_weights,
)

LENGTH, WIDTH = 6, 16


class EmbeddingNet(nn.Module):
    """Vectors [B, 6, 16] into one unit vector [B, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 24)
        self.second = nn.Linear(24, 8)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.second(torch.relu(self.first(vectors))).mean(1), dim=1)


def embedding_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a state dict of the network."""
    torch.manual_seed(seed)
    return EmbeddingNet().state_dict()


class EmbeddingAdapter(Adapter):
    name = "embedding"
    summary = "embeds a few vectors"
    dims = (Dim("batch", 1, 2, 4),)

    def load(self, request: Request) -> SourceModel:
        net = EmbeddingNet().eval()
        try:
            net.load_state_dict(read_weights(request.weights))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{request.weights} is no checkpoint of this network: {str(error).splitlines()[0]}",
                hint="Give another file.",
            ) from error
        spec = ModelSpec(
            variant="small",
            dims=request.dims,
            inputs=(TensorSpec("vectors", ("batch", LENGTH, WIDTH)),),
            outputs=(TensorSpec("embedding", ("batch", 8)),),
        )
        return SourceModel(net, spec, self._reference)

    @staticmethod
    def _reference(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {"embedding": module(inputs["vectors"])}

    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[dict[str, np.ndarray]]:
        rng = np.random.default_rng(seed)
        return [{"vectors": rng.normal(size=(LENGTH, WIDTH)).astype(np.float32)} for _ in range(count)]


class EmbeddingPlugin:
    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        return [EmbeddingAdapter()]
