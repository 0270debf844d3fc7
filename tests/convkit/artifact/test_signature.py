"""Signatures: what the owner of a key signed is taken, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from support.crash import make_artifact

from convkit import Artifact, load
from convkit.artifact import MODEL, SIGNATURE, VERDICT, sign_artifact, verify_signature
from convkit.errors import IntegrityError, SettingError, ValidationError


def write_key(folder: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    """Write a pair of keys, as openssl does; return the files."""
    key = ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    return write_key(tmp_path_factory.mktemp("keys"), "house")


@pytest.fixture
def signed(tmp_path, keys) -> Artifact:
    artifact = make_artifact(tmp_path / "out")
    assert sign_artifact(artifact, keys[0]) == artifact.path / SIGNATURE
    return artifact


def test_what_was_signed_is_taken_wherever_it_is(signed, keys, tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left beside it"
    moved = shutil.move(signed.path, tmp_path / "moved")
    artifact = Artifact.open(moved)
    artifact.verify()
    verify_signature(artifact, keys[1])
    sign_artifact(artifact, keys[0])
    verify_signature(artifact, keys[1])


def test_what_a_killed_signing_left_goes_away(signed, keys, tmp_path):
    left = tmp_path / f".{signed.path.name}.1.abc.partial"
    left.mkdir()
    (left / SIGNATURE).write_text("half")
    sign_artifact(signed, keys[0])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def in_the_payload(path: Path) -> None:
    document = json.loads(path.read_text())
    document["dsseEnvelope"]["payload"] = document["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: flip(folder / MODEL),
        lambda folder: (folder / VERDICT).unlink(),
        lambda folder: (
            (folder / "engines" / "other").mkdir(parents=True)
            or (folder / "engines" / "other" / "model.plan").write_text("x")
        ),
        lambda folder: (folder / ".gitignore").write_text("x"),
        lambda folder: (folder / "link").symlink_to("/etc/passwd"),
        lambda folder: (folder / SIGNATURE).unlink(),
        lambda folder: (folder / SIGNATURE).write_text("{}"),
        lambda folder: (folder / SIGNATURE).write_bytes(b"\xff" * 100),
        lambda folder: (folder / SIGNATURE).write_text("[" * 100_000),
        lambda folder: (folder / SIGNATURE).write_text("null"),
        lambda folder: in_the_payload(folder / SIGNATURE),
    ],
)
def test_whatever_was_changed_or_added_is_refused(signed, keys, change):
    change(signed.path)
    with pytest.raises(IntegrityError, match="sign") as caught:
        verify_signature(signed, keys[1])
    assert caught.value.exit_code == 4


def test_the_signature_of_another_key_is_refused(signed, tmp_path):
    with pytest.raises(IntegrityError, match="not what the owner"):
        verify_signature(signed, write_key(tmp_path, "other")[1])


def test_a_key_may_have_a_password(tmp_path, signed):
    private, public = write_key(tmp_path, "locked", b"secret")
    for password in (None, "wrong"):
        with pytest.raises(SettingError, match="cannot be used"):
            sign_artifact(signed, private, password=password)
    sign_artifact(signed, private, password="secret")
    verify_signature(signed, public)


def test_what_is_no_such_key_is_refused(tmp_path, signed, keys):
    other = rsa.generate_private_key(65537, 2048)
    pem, pkcs = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "rsa.pem").write_bytes(other.private_bytes(pem, pkcs, serialization.NoEncryption()))
    (tmp_path / "text.pem").write_text("no key")
    (tmp_path / "endless.pem").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.pem")
    for file in (
        tmp_path / "endless.pem",
        tmp_path / "pipe.pem",
        tmp_path / "rsa.pem",
        tmp_path / "text.pem",
        tmp_path / "missing.pem",
        tmp_path,
        keys[1],
    ):
        with pytest.raises(SettingError, match="cannot be used") as caught:
            sign_artifact(signed, file)
        assert "openssl" in caught.value.hint
        if file != keys[1]:
            with pytest.raises(SettingError, match="cannot be used"):
                verify_signature(signed, file)


def test_only_what_is_whole_and_proved_is_signed(tmp_path, keys):
    from support.manifests import manifest_of

    rejected = make_artifact(
        tmp_path / "bad", manifest=manifest_of(verdict={"passed": False, "headline": "NOT proved"})
    )
    with pytest.raises(ValidationError, match="rejected"):
        sign_artifact(rejected, keys[0])
    changed = make_artifact(tmp_path / "changed")
    flip(changed.model)
    with pytest.raises(IntegrityError, match="not the file"):
        sign_artifact(changed, keys[0])


def test_the_commands_sign_and_refuse(cli_run, embedding_artifact, keys, tmp_path):
    shutil.copytree(embedding_artifact.path, tmp_path / "art")
    art = tmp_path / "art"
    assert cli_run("validate", art, "--signed-by", keys[1]) == 4
    assert cli_run("sign", art, "--key", keys[0], "--json") == 0
    assert cli_run("validate", art, "--signed-by", keys[1]) == 0
    assert cli_run("validate", art, "--signed-by", keys[1]) == 0, "it wrote nothing into the artifact"
    assert cli_run("validate", art, "--signed-by", write_key(tmp_path, "other")[1]) == 4


def test_nothing_is_run_that_the_owner_of_the_key_did_not_sign(cli_run, embedding_artifact, keys, tmp_path):
    art, vectors = tmp_path / "art", tmp_path / "vectors.npz"
    shutil.copytree(embedding_artifact.path, art)
    np.savez(vectors, vectors=np.ones((6, 16), np.float32))
    with pytest.raises(IntegrityError, match="not signed"):
        load(art, signed_by=keys[1])
    sign_artifact(Artifact.open(art), keys[0])
    load(art, signed_by=str(keys[1])).close()
    assert cli_run("run", art, vectors, "--signed-by", keys[1]) == 0
    (art / "README").write_text("of somebody else")
    load(art).close()
    with pytest.raises(IntegrityError, match="is not what the owner"):
        load(art, signed_by=keys[1], verify=False)
    assert cli_run("run", art, vectors, "--signed-by", keys[1]) == 4
    words = ("--coco", tmp_path / "none.json", "--images", tmp_path, "--signed-by", keys[1])
    assert cli_run("evaluate", art, *words) == 4
    (art / "README").unlink()
    assert cli_run("evaluate", art, *words) == 2, "the annotations are not there"


@pytest.fixture
def cli_run(embedding):
    del embedding
    from convkit.cli import execute

    return lambda *words: execute([str(word) for word in words])


def test_without_the_package_the_remedy_is_named(signed, keys):
    script = (
        "import sys; sys.modules['model_signing'] = None\n"
        "from convkit.cli import execute; sys.exit(execute(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "sign", str(signed.path), "--key", str(keys[0])]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 5
    assert "convkit[sign]" in run.stderr
