"""load(): an artifact becomes a predictor."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from convkit.artifact import Artifact, verify_signature
from convkit.backends import Session, coverage, open_artifact, proved_engine
from convkit.errors import ValidationError
from convkit.runtime._device_predictor import DevicePredictor
from convkit.runtime._predictor import Predictor

__all__ = ["load", "predictor_of"]


def load(
    path: Path | str,
    *,
    backend: str | None = None,
    device: str | None = None,
    verify: bool = True,
    unproved: bool = False,
    signed_by: Path | str | None = None,
    augment: Mapping[str, str] | None = None,
) -> Predictor:
    """Load an artifact as a predictor.

    ``backend`` and ``device`` are by default those that proved the artifact; another backend runs where it does by
    default: on ``cpu``, or ``cuda`` for TensorRT, which runs the engine that `convkit.conversion.build_engine` put into
    the artifact. On ``cuda`` (or ``cuda:N``) inputs go through the device pipeline as far as the adapter and the
    backend have device sides; see `DevicePredictor`. ``verify`` False skips the comparison of the files with their
    hashes. ``unproved`` opens a backend, device or kind of GPU that no proof covers; `Predictor.unproved` then says
    why none does. ``signed_by`` is a public key (PEM): what its owner did not sign is refused. ``augment`` are settings
    of test-time augmentation, by name, as the adapter has them: each input then goes through the engine in several
    views, and the results are made of all of them, on the host.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved; it lacks such an engine.
        ValidationError: the artifact was rejected by its proof, or no proof covers the backend on this device.
        SettingError: there is no such backend, the key cannot be used, or the model has no such augmentation.
        EnvironmentProblem: the backend cannot run here, there is no such device, or no package for signatures.
    """
    artifact = Artifact.open(path)
    if signed_by is not None:
        verify_signature(artifact, Path(signed_by))
    if verify:
        artifact.verify()
    if not artifact.manifest["verdict"]["passed"]:
        raise ValidationError(
            f"{path} was rejected: {artifact.manifest['verdict']['headline']}.",
            hint=f"`convkit validate {path} -v` shows every check and where the error enters.",
        )
    backend, device = proved_engine(artifact, backend, device)
    session = open_artifact(artifact, backend, device=device, unproved=unproved, verify=verify)
    found = coverage(artifact, backend, device)
    with ExitStack() as unused:
        unused.callback(session.close)
        predictor = predictor_of(artifact, session, augment)
        unused.pop_all()
    predictor.backend, predictor.coverage = backend, predictor.noted(found)
    return predictor


def predictor_of(artifact: Artifact, session: Session, augment: Mapping[str, str] | None = None) -> Predictor:
    """Return the predictor that `load` makes of a session of an artifact, without asking whether it is proved.

    Raises:
        SettingError: the model has no test-time augmentation, or not with the settings ``augment``.
        EnvironmentProblem: the session is on a GPU for which cupy is missing.
    """
    if augment is not None:
        from convkit.runtime._augmented import AugmentedPredictor

        return AugmentedPredictor(artifact, session, augment)
    if session.device.partition(":")[0] == "cuda":
        return DevicePredictor(artifact, session)
    return Predictor(artifact, session)
