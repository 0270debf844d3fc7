"""Signatures of artifacts by OpenSSF model signing, with keys of one's own and without a network."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit._documents import read_bounded
from convkit.artifact._directory import WRITABLE, Artifact, anchored
from convkit.artifact._engines import stored_engines
from convkit.errors import EnvironmentProblem, IntegrityError, SettingError, ValidationError, unwritten
from convkit.files import clear_leftovers, scratch_beside, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SIGNATURE", "sign_artifact", "verify_signature"]

SIGNATURE = "model.sig"
"""The name that model signing itself looks for in a directory."""
_MOST_BYTES = 16 << 20
_MOST_KEY_BYTES = 1 << 20
_MAKE_KEYS = (
    "Make a pair of keys: openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem &&"
    " openssl ec -in KEY.pem -pubout -out KEY.pub"
)


def sign_artifact(artifact: Artifact, key: Path, *, password: str | None = None) -> Path:
    """Sign every file of an artifact with a private key on an elliptic curve (PEM); return the signature in it.

    The signature covers engines and later proofs too: what is added or changed afterwards makes it invalid.

    Raises:
        IntegrityError: a file is not the one that was proved or built.
        ValidationError: the artifact was rejected by its proof.
        SettingError: the key cannot be used.
        EnvironmentProblem: the package model-signing is missing, or there is no room on the disk.
        OutputError: the artifact cannot be written.
    """
    library = _library()
    artifact.verify()
    for engine in stored_engines(artifact).values():
        engine.verify(artifact)
    if not artifact.manifest["verdict"]["passed"]:
        raise ValidationError(f"{artifact.path} was rejected by its proof.", hint="Convert again; sign what is proved.")
    file = artifact.path / SIGNATURE
    place = anchored(artifact.path)
    try:
        with _key_problems(key):
            read_bounded(key, _MOST_KEY_BYTES)
            # The library hands the password on to one that takes bytes only.
            secret = password.encode() if password else None
            config = library.signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
        clear_leftovers(place)
        with scratch_beside(place) as scratch:
            made = scratch / SIGNATURE
            config.set_hashing_config(_hashing(library)).sign(artifact.path, made)
            write_atomic(file, made.read_bytes(), durable=True)
    except OSError as error:
        raise unwritten(file, error, WRITABLE) from error
    except ValueError as error:
        raise IntegrityError(
            f"{artifact.path} cannot be signed: {error}", hint="Put the files there themselves."
        ) from error
    return file


def verify_signature(artifact: Artifact, key: Path) -> None:
    """Check that an artifact is, file by file, what the owner of a public key (PEM) signed; nothing may be added.

    Raises:
        IntegrityError: it is not signed, not by that key, or was changed since.
        SettingError: the key cannot be used.
        EnvironmentProblem: the package model-signing is missing.
    """
    library = _library()
    file = artifact.path / SIGNATURE
    if file.is_symlink() or not file.is_file() or file.stat().st_size > _MOST_BYTES:
        raise IntegrityError(f"{artifact.path} is not signed: it has no {SIGNATURE}.", hint="convkit sign signs it.")
    with _key_problems(key):
        read_bounded(key, _MOST_KEY_BYTES)
        config = library.verifying.Config().use_elliptic_key_verifier(public_key=key)
    try:
        config.set_hashing_config(_hashing(library)).verify(artifact.path, file)
    except _refusals() as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise IntegrityError(
            f"{artifact.path} is not what the owner of {key} signed: {reason}",
            hint="Do not use it, unless you know who changed it and sign it again.",
        ) from error


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise EnvironmentProblem(
            f"Signatures need the package model-signing ({error}).", hint='pip install "convkit[sign]"'
        ) from error
    return model_signing


def _hashing(library: Any) -> Any:
    """Return how a directory is hashed: each file by SHA-256, links refused, the signature alone left out."""
    config = library.hashing.Config().use_file_serialization()
    return config.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


@contextmanager
def _key_problems(key: Path) -> Iterator[None]:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SettingError(f"The key {key} cannot be used: {reason}", hint=_MAKE_KEYS) from error


def _refusals() -> tuple[type[Exception], ...]:
    """Return what verification raises: its own words, and what a file that is no signature makes parsers raise."""
    from cryptography.exceptions import InvalidSignature
    from google.protobuf.json_format import Error as NoMessageError  # type: ignore[import-untyped]

    known = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
    return (*known, InvalidSignature, NoMessageError)
