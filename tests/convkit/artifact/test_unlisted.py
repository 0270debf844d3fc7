"""What lies in the place of an artifact's files has to be listed; other files are nobody's business."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.crash import make_artifact
from support.mutants import resealed

from convkit.artifact import MODEL, Artifact
from convkit.artifact._unlisted import refuse_unlisted_in_folder
from convkit.errors import IntegrityError


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_artifact(tmp_path / "out")


def put(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"x")


@pytest.mark.parametrize(
    "name",
    [
        "proof/results.json", "proof/input_0.png", "proof/deep/er.npz", "proof/backends/x.txt", "proof/.hidden",
        "kernels/kernels.json", "model.onnx.data", "model.onnx_data", "exported.onnx", "exported.onnx.data",
        "report.html",
    ],
)  # fmt: skip
def test_what_lies_where_parts_are_has_to_be_listed(artifact, name):
    put(artifact.path / name, "file")
    with pytest.raises(IntegrityError, match=rf"manifest\.json does not list {name}") as caught:
        artifact.verify()
    assert "Move that file" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "kind"), [("proof/x", "link"), ("proof/backends/x.json", "link"), ("proof/x", "pipe")]
)
def test_links_and_pipes_are_no_exception(artifact, name, kind):
    put(artifact.path / name, kind)
    with pytest.raises(IntegrityError):
        artifact.verify()


def test_a_folder_of_records_that_is_a_link_is_refused(artifact, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (artifact.path / "proof" / "backends").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="is a link"):
        artifact.verify()


@pytest.mark.parametrize("name", ["manifest.json", "engines"])
def test_what_has_no_hash_is_no_link_either(artifact, tmp_path, name):
    (artifact.path / "engines").mkdir()
    (artifact.path / name).rename(tmp_path / "elsewhere")
    (artifact.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="is a link"):
        Artifact.open(artifact.path).verify()


def test_other_files_and_what_is_written_later_stay(artifact):
    for name in ("README.md", "notes/model.onnx", ".DS_Store", "model.sig", "proof/backends/torch-cpu.json"):
        put(artifact.path / name, "file")
    put(artifact.path / "proof/backends/.torch-cpu.json.ab12cd34", "file")  # of a write that was killed
    artifact.verify()


def test_weights_in_a_file_that_is_not_listed_are_refused(artifact):
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "location")  # a name that says nothing
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "location"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 64])],
        [helper.make_tensor_value_info("y", 1, [1, 64])],
        [weights],
    )
    model = helper.make_model(graph)
    onnx.save(model, artifact.model)
    resealed(artifact.path)
    Artifact.open(artifact.path).verify()
    onnx.save(model, artifact.model, save_as_external_data=True, location="other.bin", size_threshold=0)
    resealed(artifact.path)
    with pytest.raises(IntegrityError, match=r"weights in 'other\.bin', which the manifest does not list"):
        Artifact.open(artifact.path).verify()
    resealed(artifact.path, lambda document: document["files"].update({"other.bin": document["files"][MODEL]}))
    resealed(artifact.path)
    Artifact.open(artifact.path).verify()
    artifact.model.write_bytes(b"\x0a\x08location\xff")
    resealed(artifact.path)
    with pytest.raises(IntegrityError, match="no ONNX file"):
        Artifact.open(artifact.path).verify()


def test_the_folder_of_an_engine_contains_what_its_description_lists(tmp_path):
    folder = tmp_path / "engine"
    put(folder / "model.plan", "file")
    put(folder / "proof/kept.txt", "file")
    refuse_unlisted_in_folder(folder, {"model.plan"})
    put(folder / "timing.cache", "link")
    with pytest.raises(IntegrityError, match="is a link"):
        refuse_unlisted_in_folder(folder, {"model.plan"})
    (folder / "timing.cache").unlink()
    put(folder / "timing.cache", "file")
    with pytest.raises(IntegrityError, match=r"engine\.json does not list timing\.cache"):
        refuse_unlisted_in_folder(folder, {"model.plan"})
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(IntegrityError, match="is a link"):
        refuse_unlisted_in_folder(tmp_path / "link", {"model.plan", "timing.cache"})
