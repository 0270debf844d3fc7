"""What is judged: an artifact of which any part may be replaced by one with a fault, or by another that is as good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from convkit.artifact import Artifact
from convkit.backends import Session
from convkit.hookspecs import hookimpl
from convkit.plugins import manager
from convkit.processing import Decode, Preprocess
from convkit.proof import Compute, GoldenSamples
from convkit.runtime import DevicePredictor, Predictor

__all__ = ["Delivery", "Subject", "predicting", "processing"]

PLUGIN = "convkit-self-test"

Delivery = Callable[[Iterator[Any]], Iterator[Any]]
"""Turns the stream of results of a predictor into the one that its user gets."""


@dataclass(frozen=True)
class Subject:
    """The parts of an artifact that are replaced; what is None stays as it is.

    ``run`` or ``session`` takes the place of the engine; ``model`` is the graph that the session runs, if it is another
    one. ``preprocess`` and ``decode`` make one of the artifact's,
    ``specified`` are other values for the specification of the preprocess; ``deliver`` is what becomes of the stream of
    results, ``golden`` replaces the stored samples where these are put into another order, and ``settings`` is entered
    while the subject is judged.
    """

    run: Compute | None = None
    session: Session | None = None
    model: onnx.ModelProto | None = None
    preprocess: Callable[[Preprocess], Preprocess] | None = None
    specified: Mapping[str, Any] | None = None
    decode: Callable[[Decode], Decode] | None = None
    deliver: Delivery | None = None
    golden: GoldenSamples | None = None
    settings: Callable[[], AbstractContextManager[Any]] = nullcontext


class Running(Session):
    """A session that runs a function."""

    def __init__(self, run: Compute, device: str) -> None:
        self._run, self.device = run, device

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the function returns."""
        return dict(self._run(inputs))


class _Delivering(Predictor):
    """A predictor whose stream of results goes through ``deliver``."""

    deliver: Delivery = staticmethod(iter)

    def stream(self, inputs: Any, *, batch: int = 1) -> Iterator[Any]:
        """Yield the results as they are delivered."""
        return self.deliver(super().stream(inputs, batch=batch))

    def stream_outputs(self, inputs: Any, *, batch: int = 1) -> Iterator[Any]:
        """Yield the outputs as they are delivered."""
        return self.deliver(super().stream_outputs(inputs, batch=batch))


class _DeliveringOnDevice(_Delivering, DevicePredictor):
    """The same of a predictor on a GPU."""


@contextmanager
def predicting(artifact: Artifact, subject: Subject, sound: Session, run: Compute) -> Iterator[Predictor]:
    """Yield the predictor of a subject; ``run`` is what the ``sound`` session runs."""
    session = subject.session or Running(subject.run or run, sound.device)
    kind = _DeliveringOnDevice if session.device.partition(":")[0] == "cuda" else _Delivering
    predictor = kind(artifact, session)
    if subject.deliver:
        predictor.deliver = subject.deliver
    try:
        yield predictor
    finally:
        if session is not sound:
            predictor.close()


class _Planted:
    """A plugin that is asked first and changes the preprocess and decode that the others offer."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._asking = False

    @hookimpl(tryfirst=True)
    def convkit_preprocess(self, spec: Mapping[str, Any]) -> Preprocess | None:
        """Return the changed preprocess of the other plugins."""
        change, specified = self._subject.preprocess, self._subject.specified
        if change is None and specified is None:
            return None
        found = self._others("convkit_preprocess", {**spec, **(specified or {})})
        return change(found) if change and found else found

    @hookimpl(tryfirst=True)
    def convkit_decode(self, spec: Mapping[str, Any]) -> Decode | None:
        """Return the changed decode of the other plugins."""
        change = self._subject.decode
        found = self._others("convkit_decode", spec) if change else None
        return change(found) if change and found else found

    def _others(self, hook: str, spec: Mapping[str, Any]) -> Any:
        """Return what the plugins behind this one offer; None while they are asked."""
        if self._asking:
            return None
        self._asking = True
        try:
            return manager().first(hook, spec=spec)
        finally:
            self._asking = False


@contextmanager
def processing(subject: Subject) -> Iterator[None]:
    """Let everybody find the preprocess and decode of a subject, as if its plugin were another version."""
    if subject.preprocess is None and subject.specified is None and subject.decode is None:
        yield
        return
    manager().register(_Planted(subject), PLUGIN, "convkit")
    try:
        yield
    finally:
        manager().unregister(PLUGIN)
