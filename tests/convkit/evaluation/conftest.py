"""A second detector beside the one of all tests."""

from __future__ import annotations

import pytest
from support.plugins import registered

from convkit import Artifact


@pytest.fixture(scope="package")
def other_blobs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A proved artifact of a rectangle detector that misses the brighter ones of the green rectangles."""
    import torch
    from support.blobs import BlobPlugin, blob_weights

    from convkit import convert

    folder = tmp_path_factory.mktemp("other")
    weights = blob_weights()
    weights["tone.bias"][1] = -6.4
    torch.save(weights, folder / "other.pth")
    with registered(BlobPlugin(), "blobs"):
        return convert("blobs", weights=folder / "other.pth", output=folder / "other").artifact
