"""Whether a failed proof is the graph's fault or that of the backend that ran it."""

from __future__ import annotations

from pathlib import Path

from convkit.artifact import Artifact
from convkit.backends import open_artifact
from convkit.errors import ConvkitError
from convkit.evaluation import prove_predictor
from convkit.progress import Progress
from convkit.runtime import predictor_of

__all__ = ["graph_is_right"]

JUDGE = "torch"
"""Computes as the baseline does, so that what it misses the limits with is a wrong graph."""


def graph_is_right(path: Path, backend: str, progress: Progress) -> bool:
    """Return whether PyTorch runs the graph of an artifact within all the limits, some of which ``backend`` missed."""
    if backend == JUDGE:
        return False
    progress("running the graph in PyTorch, to see whether it is right")
    artifact = Artifact.open(path)
    try:
        session = open_artifact(artifact, JUDGE, device="cpu", unproved=True, verify=False)
        with predictor_of(artifact, session) as predictor:
            return prove_predictor(predictor, backend=JUDGE, stop_early=True).passed
    except ConvkitError:  # the backend lacks an operator, for example
        return False
