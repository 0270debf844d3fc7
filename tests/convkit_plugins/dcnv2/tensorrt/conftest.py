"""An artifact with a deformable convolution, which several files build engines of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.plugins import registered
from support.shared import made_once

from convkit import Artifact, convert


@pytest.fixture(scope="module")
def converted(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    """The deformable toy, whose adapter is installed meanwhile. All workers share the files: tests change a copy."""
    from support.toy_dcn import DeformableToyPlugin

    with registered(DeformableToyPlugin()):
        yield Artifact.open(
            made_once(
                tmp_path_factory,
                "deformable",
                lambda folder: convert("toy", weights=toy_weights_file, output=folder, samples=2),
            )
        )
