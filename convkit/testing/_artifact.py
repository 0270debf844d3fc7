"""Checks of the artifact: conversion, proof, batches, prediction, and that the proof finds faults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from convkit.artifact import Artifact, spec_from_manifest
from convkit.evaluation import validate
from convkit.proof import Verdict
from convkit.results import SLACK, json_difference
from convkit.runtime import load
from convkit.self_test import OUTPUT_FAULTS, OutputFault
from convkit.testing._fixtures import Fixtures
from convkit.testing._replay import Replay

__all__ = ["ArtifactChecks"]


class ArtifactChecks(Fixtures):
    """What ``convkit convert`` makes of the adapter."""

    @pytest.fixture(scope="class")
    @classmethod
    def replay(cls, artifact: Artifact) -> Replay:
        """Return the proof of the artifact, ready to run on spoilt engines."""
        return Replay(artifact)

    def test_converts_and_is_proved(self, artifact: Artifact, form: str) -> None:
        """A failure means that this output form cannot be converted, or computes something else than PyTorch.

        The error names the stage; ``convkit convert -v`` shows the ledger of all stages. A note
        about an ill-conditioned output asks for better weights or samples.
        """
        verdict = Verdict.from_json(artifact.verdict)
        assert verdict.passed, verdict.headline()
        assert artifact.manifest["graph"]["form"] == form
        weak = [note for note in verdict.notes if "ill-conditioned" in note]
        assert not weak, "; ".join(weak)

    def test_artifact_validates_again(self, artifact: Artifact) -> None:
        """A failure means that the artifact depends on something that is not in it, or that results vary."""
        verdict = validate(artifact.path)
        assert verdict.passed, verdict.headline()

    def test_dimensions_stay_dynamic(self, artifact: Artifact) -> None:
        """A failure means that a size was frozen during export.

        Look for ``int(x.shape[0])``, ``view`` with numbers, and lists made from a tensor's shape.
        """
        graph, spec = onnx.load(artifact.model).graph, spec_from_manifest(artifact.manifest)
        dynamic = {dim.name for dim in spec.dims if dim.dynamic}
        for values, tensors in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
            assert [value.name for value in values] == [tensor.name for tensor in tensors]
            for value, tensor in zip(values, tensors, strict=True):
                for axis, extent in zip(value.type.tensor_type.shape.dim, tensor.shape, strict=True):
                    if extent in dynamic:
                        assert axis.dim_param == extent, f"{tensor.name}: {extent} was frozen to {axis.dim_value}"

    def test_every_sample_stands_alone(self, replay: Replay) -> None:
        """A failure means that an input's result depends on its neighbours or on the size of the batch.

        Look for statistics over the batch, and for ``squeeze`` that takes the batch away at size one.
        """
        for engine, what in ((replay.backwards, "the batch in reverse"), (replay.alone, "each input alone")):
            verdict = replay.prove(engine)
            assert verdict.passed, f"{what} gives other results: {verdict.headline()}"

    def test_predictor_takes_files_values_and_lists(
        self, artifact: Artifact, raws: Sequence[Any], tmp_path: Path
    ) -> None:
        """A failure means that ``convkit.load`` cannot be used with this model as the documentation says."""
        with load(artifact.path) as predictor:
            path = predictor.reader.write(raws[0], tmp_path / "input")
            run = predictor if predictor.decodes else predictor.outputs
            several = [_plain(found) for found in run(list(raws))]
            assert len(several) == len(raws), f"{len(raws)} inputs gave {len(several)} results"
            single = _plain(run(raws[0]))
            assert _same(single, several[0]), "an input alone gives another result than in a list"
            assert _same(_plain(run(path)), single), "a file gives another result than its content"
            assert _same(_plain(run(str(path))), single), "a path as text gives another result"

    @pytest.mark.parametrize("fault", OUTPUT_FAULTS, ids=lambda fault: fault.name)
    def test_proof_catches(self, replay: Replay, fault: OutputFault) -> None:
        """A failure means that the proof of this adapter is worth little: it let a planted fault pass.

        Narrow the `Tolerance` of the output that the message names. Where it is the default, the
        inputs tell nothing (an output that is constant or zero on all of them) or the network is
        ill-conditioned: give better samples, or better weights to the check.
        """
        missed = replay.unnoticed(fault)
        assert not missed, f"{fault.name} ({fault.cause}) goes unnoticed in {', '.join(missed)}"


def _plain(found: Any) -> Any:
    return found if isinstance(found, dict) else found.to_json()


def _same(first: Any, second: Any) -> bool:
    """Return whether two results, or outputs by name, are equal to rounding."""
    if any(isinstance(value, np.ndarray) for value in first.values()):
        return all(np.allclose(second[name], value, rtol=1e-4, atol=1e-5) for name, value in first.items())
    return not json_difference(first, second, SLACK, "result")
