"""Checks of how an adapter treats checkpoints that are none of its own."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from convkit.errors import CheckpointError, ConvkitError
from convkit.testing._fixtures import Fixtures

if TYPE_CHECKING:
    from convkit.testing._subject import Subject

__all__ = ["CheckpointChecks"]

PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>404: not found</body></html>\n"


class CheckpointChecks(Fixtures):
    """What `Adapter.load` promises for bad input.

    A loader of PyTorch files passes these checks when it reads with ``weights_only=True``, turns
    what ``torch.load`` raises into `CheckpointError`, and does the same for keys and shapes that do
    not fit.
    """

    @pytest.mark.parametrize("damage", ["empty", "web page", "cut short", "missing"])
    def test_damaged_file_is_refused(self, subject: Subject, damage: str, tmp_path: Path) -> None:
        """A failure means that a user with a failed download sees a traceback instead of what to do."""
        path = tmp_path / f"damaged{subject.weights.suffix}"
        whole = subject.weights.read_bytes()
        content = {"empty": b"", "web page": PAGE, "cut short": whole[: len(whole) * 2 // 3]}.get(damage)
        if content is not None:
            path.write_bytes(content)
        _must_refuse(subject, path, f"a file that is {damage}")

    def test_foreign_checkpoint_is_refused(self, subject: Subject, tmp_path: Path) -> None:
        """A failure means that weights of another network are loaded, or end in a traceback.

        Load strictly, and name the keys that are missing or left over.
        """
        import torch

        path = tmp_path / "foreign.pth"
        torch.save({"state_dict": {"encoder.weight": torch.zeros(3, 3), "encoder.bias": torch.zeros(3)}}, path)
        _must_refuse(subject, path, "a checkpoint of another network")

    def test_nothing_in_the_file_is_executed(self, subject: Subject, tmp_path: Path) -> None:
        """A failure means that a checkpoint from the internet runs code on the user's machine.

        Read with ``torch.load(..., weights_only=True)``, never with ``pickle`` itself.
        """
        trace = tmp_path / "executed"
        path = tmp_path / "malicious.pth"
        path.write_bytes(pickle.dumps(_Trap(str(trace)), protocol=2))
        try:
            _must_refuse(subject, path, "a pickle that runs a command")
        finally:
            assert not trace.exists(), "loading the checkpoint ran the command that it holds"

    def test_class_names_are_taken_or_refused(self, subject: Subject, form: str) -> None:
        """A failure means that own class names are lost, or that a wrong number of them is no clear error.

        Put ``request.names`` into ``ModelSpec.classes``, and raise `SettingError` where their number
        does not fit.
        """
        own = subject.load(form).spec.classes
        names = tuple(f"name {index}" for index in range(len(own)))
        if names:
            found = subject.adapter.load(subject.request(form, names=names)).spec.classes
            assert tuple(found) == names, f"--names gave {names[:3]}…; the spec has the classes {tuple(found)[:3]}…"
        excess, refusal, found = (*names, "one too many"), None, ()
        try:
            found = tuple(subject.adapter.load(subject.request(form, names=excess)).spec.classes)
        except ConvkitError as error:
            refusal = error
        if refusal is None:
            assert found in (tuple(own), excess), "a wrong number of names was neither refused, taken nor left out"
        else:
            assert refusal.hint, f"the error has no hint: {refusal.message}"


class _Trap:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def _must_refuse(subject: Subject, path: Path, what: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        subject.adapter.load(subject.request(subject.adapter.forms[0], weights=path))
    assert caught.value.hint, f"the error for {what} has no hint: {caught.value.message}"
