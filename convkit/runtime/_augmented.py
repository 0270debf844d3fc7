"""Test-time augmentation: several views of an input through the engine, one result of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convkit.artifact import Artifact
from convkit.backends import Coverage, Session
from convkit.errors import NotFiniteError, SettingError, blamed_on, named
from convkit.plugins import manager
from convkit.processing import Prepared, checked_results, take_items, widened
from convkit.results import Result
from convkit.runtime._predictor import Predictor, batches

__all__ = ["AugmentedPredictor"]


class AugmentedPredictor(Predictor):
    """A predictor that runs each input in all views of the preprocess; its settings are those of the adapter.

    Views of one input share batches as far as the artifact allows. Preprocess and what joins the outputs run on the
    host, whatever the device of the engine is.

    Raises:
        SettingError: the model has no test-time augmentation, or not with these settings.
    """

    def __init__(self, artifact: Artifact, session: Session, settings: Mapping[str, str]) -> None:
        super().__init__(artifact, session)
        preprocess = self._preprocess.augmented(settings)
        join = self._decode.joining(settings) if self._decode else None
        if preprocess is None or join is None:
            raise SettingError("This model has no test-time augmentation.", hint="Leave --augment out.")
        self._preprocess, self._join = preprocess, join
        self.settings = dict(settings)

    def noted(self, coverage: Coverage) -> Coverage:
        """Return what is proved of the engine with a note that nothing proves how its outputs are joined."""
        note = "test-time augmentation: the proof covers each view, not how the outputs of the views are joined"
        return replace(coverage, note="; ".join(filter(None, (coverage.note, note))))

    def prepare(self, raw: Any) -> Prepared:
        """Return one raw input as input tensors, without the batch axis, with all its views."""
        prepared = super().prepare(raw)
        for view in prepared.views:
            self._check_sizes({name: tensor.shape for name, tensor in view.tensors.items()})
        return prepared

    def run(self, prepared: Sequence[Prepared]) -> list[Result]:
        """Return the results of prepared inputs, each of all its views.

        Raises:
            NotFiniteError: the engine returned NaN or infinity for a view of one of them.
        """
        results: list[Result] = []
        for item in prepared:
            views = [item, *item.views]
            outputs = list(self._outputs(views, len(results)))
            what, plugin = f"the decode {type(self._decode).__name__}", manager().origin(self._decode)
            with blamed_on(what, plugin):
                result = self._join(outputs, [view.meta for view in views])
            results += checked_results([result], 1, named(what, plugin))
        return results

    def stream_outputs(self, inputs: Iterable[Any], *, batch: int = 1) -> Iterator[dict[str, np.ndarray]]:
        """Refuse: an input has the outputs of several views."""
        raise SettingError(
            "With test-time augmentation an input has outputs of several views.", hint="Leave the augmentation out."
        )

    def _outputs(self, views: Sequence[Prepared], row: int) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield the outputs of each view, without the batch axis; ``row`` is the number of the input."""
        for items in batches(views, self.batch_max, self._alike):
            found = self._run(items)
            try:
                self._finite(found)
            except NotFiniteError as error:
                error.row = row
                raise
            for index in range(len(items)):
                one = take_items(self.spec.outputs, found, index)
                yield {name: value.copy() for name, value in widened(one).items()}
