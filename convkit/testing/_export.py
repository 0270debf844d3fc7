"""Checks of export patches and graph rewrites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import onnx
import pytest

from convkit.graph import apply_rewrite
from convkit.model import optional, patched, resolve
from convkit.proof import patched_compute, shape_cases
from convkit.testing._fixtures import Fixtures
from convkit.testing._state import module_state, owner_state, state_changes

if TYPE_CHECKING:
    import numpy as np

    from convkit.artifact import Artifact
    from convkit.model import Patch, SourceModel
    from convkit.testing._subject import Subject

__all__ = ["ExportChecks"]


class _PlannedError(Exception):
    """Raised inside a patched block by the check itself."""


class ExportChecks(Fixtures):
    """What the hooks ``convkit_export_patches`` and ``convkit_graph_rewrites`` promise."""

    def test_patched_model_returns_the_declared_outputs(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any], form: str
    ) -> None:
        """A failure means that the exported graph would not have the outputs that the adapter declares.

        Patch ``forward`` of the outermost module so that it returns a tuple in the order of
        ``ModelSpec.outputs``. A `PatchError` says which patch did not fire as often as it declares.
        """
        with patched(source.module, subject.patches(source, form), dict(source.spec.expect)):
            outputs = _forward(subject, source, raws)
        sizes = {"batch": 1, **shape_cases(source.spec.dims)[0].table}
        for tensor in source.spec.outputs:
            value = outputs[tensor.name]
            assert value.shape == resolve(tensor.shape, sizes), f"{tensor.name} has the shape {value.shape}"
            assert str(value.dtype) == tensor.dtype, f"{tensor.name} is {value.dtype}, not {tensor.dtype}"

    def test_patches_come_off(self, subject: Subject, source: SourceModel, raws: Sequence[Any], form: str) -> None:
        """A failure means that the model is another one after the export than before it.

        A patch may change nothing but through its ``forward`` or ``replacement``: no attributes, no
        hooks, no weights.
        """
        patches = subject.patches(source, form)
        before = module_state(source.module) | owner_state(patches)
        with patched(source.module, patches, dict(source.spec.expect)):
            _forward(subject, source, raws)
        changes = state_changes(before, module_state(source.module) | owner_state(patches))
        assert not changes, f"the patches left traces: {', '.join(changes)}"

    def test_patches_come_off_after_an_error(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any], form: str
    ) -> None:
        """A failure means that an export that fails leaves the process with a patched model or library."""
        patches = subject.patches(source, form)
        before = module_state(source.module) | owner_state(patches)
        with pytest.raises(_PlannedError):
            _fail_while_patched(subject, source, raws, patches)
        changes = state_changes(before, module_state(source.module) | owner_state(patches))
        assert not changes, f"the patches left traces: {', '.join(changes)}"

    def test_patches_and_rewrites_say_why(self, subject: Subject, source: SourceModel, form: str) -> None:
        """A failure means that the manifest cannot tell what was done to the model, or mixes two things up.

        Name each ``plugin.what-it-does``, once, and give a reason in words.
        """
        things = [*subject.patches(source, form), *subject.rewrites(form)]
        for thing in things:
            assert thing.name.strip(), f"a {type(thing).__name__} has no name"
            assert thing.reason.strip(), f"{thing.name} has no reason"
        names = [thing.name for thing in things]
        assert len(set(names)) == len(names), f"two of these have one name: {', '.join(sorted(names))}"
        unknown = {name for name, expect in source.spec.expect.items() if not expect.accepts(0)} - set(names)
        assert not unknown, f"ModelSpec.expect names what no plugin brings: {', '.join(sorted(unknown))}"

    def test_rewrites_are_idempotent(self, subject: Subject, artifact: Artifact, form: str) -> None:
        """A failure means that a rewrite finds its own result again, or what a rewrite after it made.

        Let ``match`` refuse what ``rewrite`` produces: the finished graph must give no rewrite
        anything to do.
        """
        model = onnx.load(artifact.model)
        for rewrite in subject.rewrites(form):
            _, record = apply_rewrite(model, rewrite, optional())
            changed = ", ".join((*record.removed, *record.added, *record.changed))
            assert record.fired == 0, f"{rewrite.name} fires {record.fired} times on the finished graph: {changed}"


def _fail_while_patched(
    subject: Subject, source: SourceModel, raws: Sequence[Any], patches: Sequence[Patch]
) -> NoReturn:
    with patched(source.module, patches, dict(source.spec.expect)):
        _forward(subject, source, raws)
        raise _PlannedError


def _forward(subject: Subject, source: SourceModel, raws: Sequence[Any]) -> Mapping[str, np.ndarray]:
    """Run the module itself, as the exporter does."""
    return patched_compute(source)(subject.feed(source, raws))
