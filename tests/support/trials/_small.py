"""The smallest model there is, converted in this process, so that its children find everything imported."""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path

import torch
from support.embedding import EmbeddingPlugin, embedding_weights
from support.exporter import quick_exports

from convkit import convert
from convkit.cli import execute
from convkit.plugins import manager

__all__ = ["convert_small", "small_artifact", "small_weights", "warmed"]


def small_weights(folder: Path, seed: int = 0) -> Path:
    """Write the weights of the model and return their file."""
    file = folder / f"weights-{seed}.pth"
    torch.save(embedding_weights(seed), file)
    return file


def convert_small(weights: Path, output: Path, *, overwrite: bool = False) -> Path:
    """Convert the model and return the artifact's path."""
    return convert("embedding", weights=weights, output=output, samples=1, overwrite=overwrite).artifact.path


@functools.cache
def small_artifact(folder: Path) -> Path:
    """Return an artifact of the model, which is made once."""
    quick_exports()
    torch.set_num_threads(1)
    manager().register(EmbeddingPlugin(), "embedding", "tests")
    return convert_small(small_weights(folder), folder / "artifact")


def warmed(*commands: list[str]) -> None:
    """Run commands in this process, without a word, so that its children need not import what they need."""
    for words in commands:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            execute(words)
