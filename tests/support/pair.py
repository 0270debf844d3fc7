"""A small adapter for tests of the core without images: token ids and features in, a mark for each token out.

The lengths of its two inputs depend on each other, its dtypes differ, and its export patch takes fewer arguments than
the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from convkit import (
    Adapter,
    ArrayReader,
    CheckpointError,
    Decode,
    Dim,
    InputError,
    ModelSpec,
    ModulePatch,
    Prepared,
    Preprocess,
    Request,
    Result,
    SourceModel,
    TensorSpec,
    exactly,
    hookimpl,
    read_weights,
)

VOCABULARY, WIDTH = 32, 4


class PairNet(nn.Module):
    """Marks tokens by their ids and by the features between them; a mask leaves padding out of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.features = nn.Linear(2 * WIDTH, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the scores [B, n, 3] and their mean [B, 3] over the tokens that ``mask`` [B, n] keeps."""
        around = torch.cat([features[:, :-1], features[:, 1:]], dim=2)
        tokens = torch.tanh(self.embedding(ids) + self.features(around))
        scores = self.head(tokens)
        kept = mask.to(scores.dtype).unsqueeze(2)
        return {"scores": scores, "mean": (scores * kept).sum(1) / kept.sum(1), "lengths": mask.to(torch.int64).sum(1)}


def pair_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a state dict of the network."""
    torch.manual_seed(seed)
    return PairNet().state_dict()


def pair_inputs(count: int, seed: int = 0, lengths: tuple[int, int] = (2, 10)) -> list[dict[str, np.ndarray]]:
    """Return raw inputs of ``lengths[0]`` to ``lengths[1]`` tokens: ids int64 [m], features float32 [m + 1, 4]."""
    rng = np.random.default_rng(seed)
    raws: list[dict[str, np.ndarray]] = []
    for _ in range(count):
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        ids = rng.integers(1, VOCABULARY, length)
        raws.append({"ids": ids, "features": rng.normal(size=(length + 1, WIDTH)).astype(np.float32)})
    return raws


class PairAdapter(Adapter):
    name = "pair"
    summary = "marks tokens by ids and features"
    dims = (Dim("batch", 1, 2, 3), Dim("n", 2, 6, 12))

    def load(self, request: Request) -> SourceModel:
        net = PairNet().eval()
        try:
            net.load_state_dict(read_weights(request.weights))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{request.weights} is no checkpoint of this network: {str(error).splitlines()[0]}",
                hint="Give another file.",
            ) from error
        spec = ModelSpec(
            variant="tokens",
            dims=request.dims,
            inputs=(TensorSpec("ids", ("batch", "n"), "int64"), TensorSpec("features", ("batch", "n+1", WIDTH))),
            outputs=(
                TensorSpec("scores", ("batch", "n", 3)),
                TensorSpec("mean", ("batch", 3)),
                TensorSpec("lengths", ("batch",), "int64"),
            ),
            preprocess={"kind": "pair.tokens", "n": None},
            decode={"kind": "pair.marks"},
            expect={"pair.mask": exactly(1)},
        )
        return SourceModel(net, spec, self._reference)

    @staticmethod
    def _reference(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        outputs: Mapping[str, torch.Tensor] = module(inputs["ids"], inputs["ids"] != 0, inputs["features"])
        return outputs

    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[dict[str, np.ndarray]]:
        return pair_inputs(count, seed)


class Tokens(Preprocess):
    """Fills up with zeros, or cuts, to ``n`` tokens; without ``n`` every input keeps its length."""

    reader = ArrayReader()

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.length = spec["n"]

    def __call__(self, raw: Any) -> Prepared:
        if not isinstance(raw, Mapping) or set(raw) != {"ids", "features"}:
            raise InputError("This is no pair of ids and features.", hint="Give {'ids': ..., 'features': ...}.")
        ids, features = np.asarray(raw["ids"]), np.asarray(raw["features"])
        if ids.ndim != 1 or not ids.size or features.shape != (len(ids) + 1, WIDTH):
            raise InputError(
                f"The ids have the shape {ids.shape}, the features {features.shape}.",
                hint=f"Give ids [m] and features [m + 1, {WIDTH}].",
            )
        if not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0 or ids.max() >= VOCABULARY:
            raise InputError("The ids name tokens that do not exist.", hint=f"Give whole numbers below {VOCABULARY}.")
        length = len(ids) if self.length is None else int(self.length)
        tensors = {
            "ids": _of_length(ids.astype(np.int64), length),
            "features": _of_length(features.astype(np.float32), length + 1),
        }
        return Prepared(tensors, {"tokens": min(len(ids), length)})


def _of_length(array: np.ndarray, length: int) -> np.ndarray:
    missing = max(0, length - len(array))
    return np.pad(array[:length], [(0, missing)] + [(0, 0)] * (array.ndim - 1))


@dataclass(frozen=True)
class Marks(Result):
    """The score of the best mark of each token, and the mean scores."""

    scores: Sequence[float]
    mean: Sequence[float]

    def to_json(self) -> dict[str, Any]:
        return {"scores": list(self.scores), "mean": list(self.mean)}

    def summary(self) -> str:
        return f"{len(self.scores)} tokens, best score {max(self.scores):.3f}"


class BestMarks(Decode):
    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Marks]:
        rows = zip(outputs["scores"].max(2), outputs["mean"], metas, strict=True)
        return [Marks(scores[: meta["tokens"]].tolist(), mean.tolist()) for scores, mean, meta in rows]


class PairPlugin:
    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        return [PairAdapter()]

    @hookimpl
    def convkit_export_patches(self, adapter: str) -> Iterable[ModulePatch]:
        if adapter != "pair":
            return []

        def forward(
            module: nn.Module, original: Any, ids: torch.Tensor, features: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            return tuple(original(ids, ids != 0, features).values())

        return [
            ModulePatch("pair.mask", "the mask follows from the ids", lambda path, module: path == "", forward),
        ]

    @hookimpl
    def convkit_preprocess(self, spec: Mapping[str, Any]) -> Tokens | None:
        return Tokens(spec) if spec.get("kind") == "pair.tokens" else None

    @hookimpl
    def convkit_decode(self, spec: Mapping[str, Any]) -> BestMarks | None:
        return BestMarks() if spec.get("kind") == "pair.marks" else None
