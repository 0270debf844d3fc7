"""All checks in one class."""

from __future__ import annotations

from convkit.testing._artifact import ArtifactChecks
from convkit.testing._checkpoint import CheckpointChecks
from convkit.testing._device import DeviceChecks
from convkit.testing._export import ExportChecks
from convkit.testing._model import ModelChecks
from convkit.testing._processing import ProcessingChecks

__all__ = ["AdapterConformance"]


class AdapterConformance(ModelChecks, CheckpointChecks, ProcessingChecks, DeviceChecks, ExportChecks, ArtifactChecks):
    """The conformance of one adapter with one checkpoint.

    Subclasses set ``adapter`` (the name), define the fixture ``weights`` (the path of a checkpoint,
    best a small one), and may set ``shapes``, ``options``, ``forms``, ``device_levels`` and
    ``gpu_only`` or replace the fixture ``raws``.
    """
