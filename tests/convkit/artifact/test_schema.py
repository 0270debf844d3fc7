"""Manifest and proof are data that somebody else may have written: checked field by field, or refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from support.mutants import TEXTS, mutants, resealed, sealed

from convkit import Artifact, Result, load
from convkit.artifact import SAMPLES, VERDICT, ProofRecord, spec_from_manifest, stored_engines, write_record
from convkit.errors import ArtifactError, ConvkitError, IntegrityError
from convkit.proof import GoldenSamples, Verdict

INDEX = "proof/samples.json"
COUNT = 400


@pytest.fixture
def artifact(embedding_artifact, embedding, tmp_path) -> Path:
    del embedding
    folder = tmp_path / "artifact"
    shutil.copytree(embedding_artifact.path, folder)
    return folder


def use(folder: Path) -> None:
    """Read all of an artifact that anything reads, without the work of running it."""
    artifact = Artifact.open(folder)
    artifact.verify()
    Verdict.from_json(artifact.verdict)
    spec = spec_from_manifest(artifact.manifest)
    artifact.records()
    stored_engines(artifact)
    GoldenSamples.load(folder, spec, artifact.manifest["files"])


def test_no_change_of_a_manifest_whose_seal_fits_ends_in_anything_but_a_refusal(artifact):
    file = artifact / "manifest.json"
    document = json.loads(file.read_text())
    refusals = []
    for _, changed in mutants(document, Random(1), COUNT):
        file.write_text(json.dumps(sealed(changed)))
        try:
            use(artifact)
        except ConvkitError as error:
            refusals.append((error.exit_code, bool(error.hint)))
    assert set(refusals) <= {(1, True), (4, True)}
    assert len(refusals) > COUNT / 3


@pytest.mark.parametrize("name", [VERDICT, INDEX])
def test_no_change_of_the_proof_whose_hash_fits_ends_in_anything_but_a_refusal(artifact, name):
    document = json.loads((artifact / name).read_text())
    refused = 0
    for what, changed in mutants(document, Random(2), COUNT // 4):
        (artifact / name).write_text(json.dumps(changed))
        resealed(artifact)
        try:
            use(artifact)
        except IntegrityError:
            refused += 1
        except ConvkitError as error:
            pytest.fail(f"{what}: {error!r}")
    assert refused > COUNT / 16


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_texts_that_are_no_document_are_refused(artifact, text):
    for name in (VERDICT, INDEX, "manifest.json"):
        whole = (artifact / name).read_bytes()
        (artifact / name).write_bytes(text)
        if name != "manifest.json":
            resealed(artifact)
        with pytest.raises(IntegrityError):
            use(artifact)
        (artifact / name).write_bytes(whole)
        resealed(artifact)
    use(artifact)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["model"].pop("dims"), "dims"),
        (lambda d: d["model"]["inputs"][0].update(shape="x"), r"model.inputs\[0\].shape"),
        (lambda d: d["environment"].update(engine=[]), "environment.engine"),
        (lambda d: d["files"]["model.onnx"].update(bytes=-1), r"files\[...\].bytes"),
        (lambda d: d["files"].update({"/etc/passwd": d["files"]["model.onnx"]}), "/etc/passwd"),
        (lambda d: d["files"].update({"proof/../../x": d["files"]["model.onnx"]}), r"\.\./x"),
        (lambda d: d["files"].update({"proof\\x": d["files"]["model.onnx"]}), "proof"),
        (lambda d: d["files"].pop("model.onnx"), "model.onnx"),
        (lambda d: d["model"]["dims"][0].update(min=3, max=2), "range"),
        (lambda d: d["weights"].pop("sha256"), "weights"),
        (lambda d: d["model"]["inputs"][0].update(dtype="object"), "dtype"),
    ],
)
def test_the_error_names_the_field(artifact, change, named):
    resealed(artifact, lambda document: change(document) and None)
    with pytest.raises(IntegrityError, match=named):
        use(artifact)


def test_a_file_that_is_loaded_has_to_be_listed(artifact):
    resealed(artifact, lambda document: document["files"].pop(SAMPLES) and None)
    with pytest.raises(IntegrityError, match=r"does not list proof/samples\.npz"):
        use(artifact)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_in_place_of_a_file_is_refused_even_if_its_content_fits(artifact, what):
    inner, outer = artifact / (SAMPLES if what == "file" else "proof"), artifact.parent / "outside"
    inner.rename(outer)
    inner.symlink_to(outer)
    with pytest.raises(IntegrityError, match="link"):
        use(artifact)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros(1 << 22, np.uint8)},
        {"0/0/text": np.zeros((3, 3, 3))},
        {"0/0/text": np.array(["a"])},
    ],
    ids=["more than there may be", "another shape", "texts"],
)
def test_golden_samples_that_do_not_fit_are_refused(artifact, arrays, monkeypatch):
    monkeypatch.setattr("convkit.processing._array_files.COMPRESSED_FROM", 1 << 20)
    with (artifact / SAMPLES).open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    resealed(artifact)
    with pytest.raises(IntegrityError, match="golden samples"):
        use(artifact)


def test_no_change_of_a_record_ends_in_anything_but_a_refusal(artifact):
    opened = Artifact.open(artifact)
    record = ProofRecord("torch", "cpu", {"version": "1"}, opened.verdict["ladder"])
    file = write_record(opened, record)
    document: dict[str, Any] = json.loads(file.read_text())
    for _, changed in mutants(document, Random(3), 60):
        file.write_text(json.dumps(sealed(changed)))
        with contextlib.suppress(IntegrityError):
            opened.records()


def test_of_other_schemas_only_the_command_is_read(artifact):
    document = json.loads((artifact / "manifest.json").read_text()) | {"schema_version": 2}
    for _, changed in mutants(document, Random(4), 60):
        if isinstance(changed, dict) and changed.get("schema_version") == 2:
            (artifact / "manifest.json").write_text(json.dumps(sealed(changed)))
            with pytest.raises(ArtifactError, match="schema 2"):
                Artifact.open(artifact)


def test_what_is_whole_runs(artifact):
    resealed(artifact)
    use(artifact)
    with load(artifact) as predictor:
        assert not isinstance(predictor, Result)
