"""Parts of the CenterNet adapter that tests of other rooms use as real examples."""

from __future__ import annotations

from convkit.backends.torch._session import TorchOnDevice, TorchSession
from convkit_models.centernet._checkpoint import read_checkpoint
from convkit_models.centernet._preprocess import Affine

__all__ = ["Affine", "TorchOnDevice", "TorchSession", "read_checkpoint"]
