"""The proof of an artifact once more, with an engine that may be spoilt on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from convkit.artifact import spec_from_manifest
from convkit.backends import open_session
from convkit.model import resolve
from convkit.processing import find_decode, take_items
from convkit.proof import GoldenSamples, Verdict, by_items, feed_key, prove, shape_cases
from convkit.self_test import OutputFault, changes_nothing, plant_output

if TYPE_CHECKING:
    from convkit.artifact import Artifact
    from convkit.model import TensorSpec
    from convkit.proof import Compute

__all__ = ["Replay"]


class Replay:
    """Proves an artifact as ``convkit validate`` does; what the real engine gave is remembered."""

    def __init__(self, artifact: Artifact) -> None:
        proved = Verdict.from_json(artifact.verdict)
        self.backend, self.baselines = proved.backend, proved.baselines
        self.spec = spec_from_manifest(artifact.manifest)
        self.cases = shape_cases(self.spec.dims)
        self.golden = GoldenSamples.load(artifact.path, self.spec, artifact.manifest["files"])
        self.reference = self.golden.reference()
        self._session = open_session(self.backend, artifact.model)
        self._known: dict[bytes, dict[str, np.ndarray]] = {}

    def engine(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the backend that proved the artifact gives."""
        key = feed_key(feed)
        if key not in self._known:
            self._known[key] = self._session.run(feed)
        return dict(self._known[key])

    def backwards(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what that backend gives for the batch in reverse, in the order of the feed again."""
        reverse = slice(None, None, -1)
        items = take_items(self.spec.inputs, feed, reverse)
        outputs = self.engine({name: value.copy() for name, value in items.items()})
        return take_items(self.spec.outputs, outputs, reverse)

    def alone(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what that backend gives for each sample in a batch of its own, the smallest that is allowed."""

        def alone(item: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            repeated = self.engine(take_items(self.spec.inputs, item, [0] * self.spec.batch.min))
            return take_items(self.spec.outputs, repeated, slice(0, 1))

        return by_items(self.spec, alone, feed)

    def prove(self, engine: Compute) -> Verdict:
        """Return the verdict on an engine, under the limits of the artifact."""
        return prove(
            self.spec,
            reference=self.reference,
            engine=engine,
            samples=self.golden.samples,
            cases=self.cases,
            baselines=self.baselines,
            decode=find_decode(self.spec.decode),
            verdict=Verdict(self.backend, "cpu", baselines=self.baselines),
        )

    def unnoticed(self, fault: OutputFault) -> list[str]:
        """Return the outputs in which the fault can be planted without the proof failing."""
        missed = []
        for output in self.spec.outputs:

            def faulty(feed: Mapping[str, np.ndarray], output: TensorSpec = output) -> dict[str, np.ndarray]:
                outputs = self.engine(feed)
                return {**outputs, output.name: plant_output(fault, outputs[output.name], output)}

            shapes = [resolve(output.shape, {"batch": 1, **case.table}) for case in self.cases]
            harmless = all(changes_nothing(fault, output, shape) for shape in shapes)
            if not harmless and self.prove(faulty).passed:
                missed.append(output.name)
        return missed
