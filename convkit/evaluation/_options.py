"""The options of an evaluation, in one place for the command, the function, and the workers of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convkit.results import DRAW_SCORE

__all__ = ["DEFAULTS", "EvaluationOptions"]


@dataclass(frozen=True)
class EvaluationOptions:
    """What of a data set is run, where, and how.

    ``weights`` is the checkpoint of the first artifact, which runs beside it in PyTorch, ``limit`` the number of images
    of which the first are taken, ``batch`` how many run at a time.

    ``resume`` is a file that keeps results by artifact, backend and image: those that it has are not made again.
    ``ray`` is the address of a Ray cluster whose machines run the images, ``local`` for this machine alone; artifacts,
    images and weights have to be at the same paths on all of them.

    ``backend``, ``device``, ``unproved``, ``signed_by`` and ``augment`` are those of `load`; the checkpoint has the
    same augmentation. ``score`` is the lowest that counts where two artifacts differ.
    """

    weights: Path | None = None
    limit: int | None = None
    batch: int = 1
    resume: Path | None = None
    ray: str | None = None
    backend: str | None = None
    device: str | None = None
    unproved: bool = False
    signed_by: Path | None = None
    augment: Mapping[str, str] | None = None
    score: float = DRAW_SCORE

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments of `load`."""
        return {name: getattr(self, name) for name in ("backend", "device", "unproved", "signed_by", "augment")}

    def anywhere(self) -> EvaluationOptions:
        """Return the options with paths that do not depend on the working folder."""
        paths = {name: path.resolve() for name in ("weights", "resume", "signed_by") if (path := getattr(self, name))}
        return replace(self, **paths)


DEFAULTS = EvaluationOptions()
