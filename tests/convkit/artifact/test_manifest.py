"""The manifest: the model specification goes through JSON unchanged, and the environment is recorded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import platform

import numpy as np
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st

from convkit import Dim, ModelSpec, TensorSpec, Tolerance, exactly
from convkit.artifact import spec_from_manifest, spec_to_json

texts = st.text(max_size=8)
DIMS = (Dim("batch", 1, 2, 4), Dim("height", 32, 64, 96, 32), Dim.fixed("width", 64), Dim("n", 1, 5, 9))
extents = st.one_of(st.integers(1, 999), st.sampled_from(["batch", "height/4", "height/4*width/4", "n+1", "21*n"]))
tolerances = st.builds(Tolerance, st.floats(1, 10), st.floats(0, 1), texts)
tensors = st.builds(
    TensorSpec,
    name=texts,
    shape=st.lists(extents, max_size=5).map(tuple),
    dtype=st.sampled_from(["float32", "int64"]),
    compare=st.sampled_from(["values", "results"]),
    tolerance=tolerances,
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
tables = st.dictionaries(texts, values, max_size=4)
NAME = operator.attrgetter("name")
specs = st.builds(
    ModelSpec,
    variant=texts,
    dims=st.permutations(DIMS).map(tuple),
    inputs=st.lists(tensors, min_size=1, max_size=2, unique_by=NAME).map(tuple),
    outputs=st.lists(tensors, min_size=1, max_size=3, unique_by=NAME).map(tuple),
    preprocess=tables,
    decode=tables.map(lambda table: {"kind": "any", **table}),
    classes=st.lists(texts, max_size=4).map(tuple),
    info=tables,
)


@given(specs)
def test_a_specification_survives_the_manifest(spec):
    document = json.loads(json.dumps(spec_to_json(spec)))
    assert spec_from_manifest({"model": document}) == spec


def test_every_field_of_a_specification_is_in_the_manifest_but_the_expectations():
    spec = ModelSpec("v", (), (TensorSpec("x", (1,)),), (TensorSpec("y", (1,)),), expect={"patch": exactly(1)})
    fields = {field.name for field in dataclasses.fields(ModelSpec)}
    assert set(spec_to_json(spec)) == fields - {"expect"}


def test_an_artifact_records_where_and_with_what_it_was_proved(toy_artifact):
    entry = toy_artifact.manifest["environment"]
    assert entry["python"] == platform.python_version()
    assert entry["packages"]["numpy"] == np.__version__
    assert entry["packages"]["onnxruntime"] == onnxruntime.__version__
    assert "not installed" not in entry["packages"].values()
    version = entry["packages"]["onnxruntime"]
    assert entry["engine"] == {"backend": "onnxruntime", "device": "cpu", "version": version}


def test_weights_are_recorded_by_name_size_and_hash_without_their_folder(toy_artifact, toy_weights_file):
    content = toy_weights_file.read_bytes()
    assert toy_artifact.manifest["weights"] == {
        "file": "toy.pth",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_the_manifest_says_whose_adapter_patches_and_rewrites_were_used(toy_artifact):
    manifest = toy_artifact.manifest
    assert manifest["adapter"] == {"name": "toy", "plugin": "toy", "distribution": "convkit-toy", "version": "1.0"}
    (record,) = manifest["patches"]["toy"]
    assert (record["name"], record["expect"], record["fired"]) == ("toy.tuple", "exactly 1", 1)
    assert {(entry["plugin"], entry["name"]) for entry in manifest["rewrites"]} >= {
        ("graph", "graph.fold-constants"),
        ("graph", "graph.drop-identity"),
    }
    assert manifest["graph"]["opset"] == 20
    assert manifest["verdict"]["passed"] is True
