"""Models without images: several inputs, no processing, weights in folders, files above the limit of protobuf."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.embedding import EmbeddingAdapter, EmbeddingNet, embedding_weights
from support.pair import PairNet, PairPlugin, pair_inputs, pair_weights
from support.plugins import registered

from convkit import (
    Adapter,
    ArrayReader,
    Decode,
    ModelSpec,
    ModulePatch,
    Prepared,
    Preprocess,
    Request,
    Result,
    SourceModel,
    convert,
    hookimpl,
    load,
    validate,
)
from convkit.artifact import Artifact, spec_from_manifest
from convkit.errors import AdapterError, CheckpointError, ConversionError, ExportError, InputError, IntegrityError


def pair_outputs(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what the network itself computes of one raw input."""
    net = PairNet().eval()
    net.load_state_dict(pair_weights())
    ids, features = torch.from_numpy(raw["ids"])[None], torch.from_numpy(raw["features"])[None]
    with torch.no_grad():
        return {name: value[0].numpy() for name, value in net(ids, ids != 0, features).items()}


def test_a_pair_of_inputs_is_exported_under_names_dtypes_and_named_dimensions(pair_artifact):
    model = onnx.load(pair_artifact.model)
    found = {
        value.name: (
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    }
    assert found == {
        "ids": ("int64", ["batch", "n"]),
        "features": ("float32", ["batch", "n+1", 4]),
        "scores": ("float32", ["batch", "n", 3]),
        "mean": ("float32", ["batch", 3]),
        "lengths": ("int64", ["batch"]),
    }


def test_the_patch_that_leaves_the_mask_out_fired_and_every_shape_was_proved(pair_artifact):
    (record,) = pair_artifact.manifest["patches"]["pair"]
    assert (record["name"], record["fired"], record["sites"]) == ("pair.mask", 1, ["PairNet"])
    sizes = {check["case"] for check in pair_artifact.verdict["checks"] if check["kind"] == "values"}
    assert {"min (batch 1, n 2)", "opt (batch 2, n 6)", "max (batch 3, n 12)"} <= sizes
    assert pair_artifact.verdict["inputs"] == "4 samples of the adapter, seed 0"


def test_a_pair_of_inputs_is_proved_again_with_its_raw_inputs(pair, pair_artifact):
    verdict = validate(pair_artifact)
    assert verdict.passed
    assert {check.output for check in verdict.checks if check.kind == "preprocess"} == {"ids", "features"}
    first = ArrayReader().read(pair_artifact.path / "proof" / "input_0.npz")
    np.testing.assert_equal(first, pair_inputs(4)[0])


def test_a_pair_of_inputs_runs_alone_and_in_batches_of_one_length(pair, pair_artifact):
    raws = [*pair_inputs(3, seed=5, lengths=(7, 7)), *pair_inputs(4, seed=6)]
    with load(pair_artifact) as predictor:
        alone = [predictor.outputs(raw) for raw in raws]
        together = predictor.outputs(raws, batch=3)
        results = predictor(raws)
    for raw, one, other, result in zip(raws, alone, together, results, strict=True):
        for name, expected in pair_outputs(raw).items():
            assert isinstance(one[name], np.ndarray)
            assert one[name].dtype == expected.dtype
            np.testing.assert_allclose(one[name], expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(other[name], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.to_json()["scores"], one["scores"].max(1), rtol=1e-5)


def test_raw_inputs_are_read_from_files(pair, pair_artifact, tmp_path):
    raw = pair_inputs(1, seed=9)[0]
    file = ArrayReader().write(raw, tmp_path / "one")
    with load(pair_artifact) as predictor:
        np.testing.assert_equal(predictor.outputs(file), predictor.outputs(raw))
        with pytest.raises(InputError, match="n of 13; the model is for 2 to 12"):
            predictor.outputs(pair_inputs(1, lengths=(13, 13))[0])


def test_a_conversion_takes_the_users_own_files(pair, pair_weights_file, tmp_path):
    for index, raw in enumerate(pair_inputs(5, seed=3)):
        ArrayReader().write(raw, tmp_path / f"own_{index}")
    (tmp_path / "notes.txt").write_text("no input")
    conversion = convert(
        "pair", weights=pair_weights_file, output=tmp_path / "out", inputs=tmp_path, samples=3, shape=["batch=1", "n=4"]
    )
    assert conversion.verdict.passed
    assert conversion.artifact.verdict["inputs"] == f"3 array files from {tmp_path.name}"
    index = json.loads((conversion.artifact.path / "proof" / "samples.json").read_text())
    assert index["sources"] == ["own_0.npz", "own_1.npz"]


def test_a_model_without_processing_is_proved_and_runs_on_its_input_arrays(embedding, embedding_artifact):
    spec = spec_from_manifest(embedding_artifact.manifest)
    assert (dict(spec.preprocess), dict(spec.decode)) == ({}, {})
    assert "the model has no decode: its outputs are what was compared" in embedding_artifact.verdict["notes"]
    assert {check["kind"] for check in embedding_artifact.verdict["checks"]} == {
        "layers",
        "shape",
        "values",
        "batch",
        "pipeline",
    }
    assert validate(embedding_artifact).passed
    net = EmbeddingNet().eval()
    net.load_state_dict(embedding_weights())
    raws = EmbeddingAdapter().samples(spec, 5, 1)
    with load(embedding_artifact) as predictor, torch.no_grad():
        assert not predictor.decodes
        for raw, found in zip(raws, predictor.outputs(raws, batch=4), strict=True):
            expected = net(torch.from_numpy(raw["vectors"])[None])[0].numpy()
            np.testing.assert_allclose(found["embedding"], expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(predictor.outputs(raw)["embedding"], expected, rtol=1e-5, atol=1e-6)
        with pytest.raises(ConversionError, match="no decode") as caught:
            predictor(raws[0])
        assert "outputs" in caught.value.hint
        with pytest.raises(InputError, match="dict of arrays by input name, not ndarray"):
            predictor.outputs(raws[0]["vectors"])


def test_converting_several_inputs_says_nothing(pair, pair_weights_file, tmp_path, capfd, recwarn):
    convert("pair", weights=pair_weights_file, output=tmp_path / "out", samples=1, shape=["batch=1:2:3", "n=2:3:4"])
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


class FolderAdapter(EmbeddingAdapter):
    """Reads its two layers from two files of a folder."""

    name = "embedding-folder"
    weights_folder = True

    def load(self, request: Request) -> SourceModel:
        state = {}
        for file in sorted(request.weights.rglob("*.pth")):
            state |= torch.load(file, weights_only=True)
        whole = request.weights.parent / "whole.pth"
        torch.save(state, whole)
        return super().load(Request(whole, request.form, request.dims, request.names, request.options))


class FolderPlugin:
    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        return [FolderAdapter(), EmbeddingAdapter()]


def test_weights_may_be_a_folder_where_the_adapter_reads_one(tmp_path):
    folder = tmp_path / "shards"
    (folder / "more").mkdir(parents=True)
    for layer, file in (("first", "a.pth"), ("second", "more/b.pth")):
        torch.save({k: v for k, v in embedding_weights().items() if k.startswith(layer)}, folder / file)
    files = {name: (folder / name).read_bytes() for name in ("a.pth", "more/b.pth")}
    with registered(FolderPlugin(), "folder"):
        made = convert("embedding-folder", weights=folder, output=tmp_path / "out", samples=1, shape=["batch=1"])
        with pytest.raises(CheckpointError, match="is a folder; adapter 'embedding' reads files"):
            convert("embedding", weights=folder, output=tmp_path / "other")
    assert made.verdict.passed
    assert made.artifact.manifest["weights"] == {
        "file": "shards",
        "bytes": sum(map(len, files.values())),
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    assert not (tmp_path / "other").exists()
    report = (made.artifact.path / "report.html").read_text()
    assert all(f"{name}, SHA-256 {hashlib.sha256(content).hexdigest()}" in report for name, content in files.items())


@pytest.fixture(scope="module")
def large_artifact(embedding_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Convert under a limit of 1 KiB, which the weights of the network exceed."""
    from support.embedding import EmbeddingPlugin

    folder = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch, registered(EmbeddingPlugin(), "embedding"):
        patch.setattr("convkit.graph._save.PROTO_LIMIT", 1024)
        return convert("embedding", weights=embedding_weights_file, output=folder / "out", samples=2).artifact


def test_weights_above_the_limit_of_protobuf_lie_beside_the_graph(embedding, large_artifact, embedding_artifact):
    assert (large_artifact.path / "model.onnx.data").stat().st_size >= 1024
    assert "model.onnx.data" in large_artifact.manifest["files"]
    assert not any(path.name.startswith(".stage") for path in large_artifact.path.iterdir())
    graph = onnx.load(large_artifact.model, load_external_data=False)
    assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer)
    assert validate(large_artifact).passed
    raw = EmbeddingAdapter().samples(spec_from_manifest(large_artifact.manifest), 1, 4)[0]
    with load(large_artifact) as large, load(embedding_artifact) as small:
        np.testing.assert_array_equal(large.outputs(raw)["embedding"], small.outputs(raw)["embedding"])


def test_weights_beside_the_graph_are_sealed_as_well_and_move_with_the_folder(embedding, large_artifact, tmp_path):
    copy = Path(shutil.copytree(large_artifact.path, tmp_path / "copy"))
    assert validate(copy, backend="torch").passed
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[0] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.onnx\.data is not the file that was proved"):
        load(copy)


class Variant(PairPlugin):
    """The pair with another part of its plugin."""

    def __init__(self, **parts: Any) -> None:
        self.parts = parts

    @hookimpl
    def convkit_export_patches(self, adapter: str) -> Iterable[ModulePatch]:
        if "patch" in self.parts and adapter == "pair":
            return [ModulePatch("pair.mask", "", lambda path, module: path == "", self.parts["patch"])]
        return super().convkit_export_patches(adapter)

    @hookimpl
    def convkit_preprocess(self, spec: Mapping[str, Any]) -> Any:
        inner = super().convkit_preprocess(spec)
        return changed(inner, self.parts["prepare"]) if inner and "prepare" in self.parts else inner

    @hookimpl
    def convkit_decode(self, spec: Mapping[str, Any]) -> Any:
        inner = super().convkit_decode(spec)
        return Changed(inner, self.parts["decode"]) if inner and "decode" in self.parts else inner


def changed(inner: Preprocess, change: Callable[[Prepared], Any]) -> Preprocess:
    class Other(Preprocess):
        reader = ArrayReader()

        def __call__(self, raw: Any) -> Any:
            return change(inner(raw))

    return Other()


class Changed(Decode):
    def __init__(self, inner: Decode, change: Callable[[Sequence[Result]], Any]) -> None:
        self.inner, self.change = inner, change

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> Any:
        return self.change(self.inner(outputs, metas))


def with_tensors(**tensors: Any) -> Callable[[Prepared], Prepared]:
    return lambda prepared: Prepared({**prepared.tensors, **tensors}, prepared.meta)


WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("fewer results", {"decode": lambda results: results[:-1]}, AdapterError, r"returned \d results for \d inputs"),
    ("more results", {"decode": lambda results: [*results, results[0]]}, AdapterError, r"returned \d results for"),
    ("other results", {"decode": lambda results: [r.to_json() for r in results]}, AdapterError, "returned a dict"),
    ("no list", {"decode": lambda results: None}, AdapterError, "a NoneType instead of"),
    ("a tuple", {"prepare": lambda prepared: (prepared.tensors, prepared.meta)}, AdapterError, "returned a tuple"),
    ("another name", {"prepare": with_tensors(mask=np.zeros(3))}, AdapterError, "inputs are ids, features"),
    ("another dtype", {"prepare": with_tensors(ids=np.zeros(4, np.int32))}, AdapterError, "int32 for 'ids'"),
    ("a list", {"prepare": with_tensors(ids=[1, 2])}, AdapterError, "list for 'ids'"),
    ("another rank", {"prepare": with_tensors(ids=np.zeros((1, 4), np.int64))}, AdapterError, "item of it is n"),
    (
        "another size",
        {"prepare": with_tensors(features=np.zeros((3, 4), np.float32))},
        AdapterError,
        r"\(3, 4\) for 'features'",
    ),
    (
        "a patch of three arguments",
        {"patch": lambda module, original, a, b, c: (a, b, c)},
        AdapterError,
        r"2 declared inputs \(ids, features\): .*'c'",
    ),
    ("a patch of one output", {"patch": lambda module, original, a, b: (b,)}, AdapterError, "declares 3 outputs"),
]


@pytest.mark.parametrize(("parts", "error", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_an_adapter_returns_wrongly_fails_the_conversion_by_name(
    pair_weights_file, tmp_path, parts, error, message
):
    with registered(Variant(**parts), "pair"), pytest.raises(error, match=message) as caught:
        convert("pair", weights=pair_weights_file, output=tmp_path / "out", samples=2, shape=["n=4", "batch=2"])
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


class Without(PairPlugin):
    """The pair whose adapter differs."""

    def __init__(self, **methods: Any) -> None:
        from support.pair import PairAdapter

        self.adapter = type("Other", (PairAdapter,), methods)

    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        return [self.adapter()]


@pytest.mark.parametrize(
    ("methods", "error", "message"),
    [
        ({"samples": lambda self, spec, count, seed: []}, AdapterError, "returned no samples"),
        ({"load": lambda self, request: None}, AdapterError, "returned a NoneType"),
    ],
)
def test_an_adapter_that_breaks_its_contract_is_refused(pair_weights_file, tmp_path, methods, error, message):
    with registered(Without(**methods), "pair"), pytest.raises(error, match=message):
        convert("pair", weights=pair_weights_file, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_items_that_differ_in_an_input_without_batch_axis_cannot_share_a_batch(pair_weights_file, tmp_path):
    """A batch has one value of such an input; a proof that took the first item's would prove nothing of the others."""
    from dataclasses import replace

    from support.pair import PairAdapter

    def edited(self: PairAdapter, request: Request) -> SourceModel:
        source = PairAdapter.load(self, request)
        first, second = source.spec.inputs
        spec: ModelSpec = replace(source.spec, inputs=(first, replace(second, shape=second.shape[1:])))

        def reference(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            return source.reference(module, {**inputs, "features": inputs["features"][None]})

        return SourceModel(source.module, spec, reference)

    with registered(Without(load=edited), "pair"), pytest.raises(AdapterError, match="differ in 'features'") as caught:
        convert("pair", weights=pair_weights_file, output=tmp_path / "out", shape=["n=4"])
    assert "--shape batch=1" in caught.value.hint


def test_an_extent_that_pytorch_cannot_export_is_refused_with_those_that_it_can(pair_weights_file, tmp_path):
    from dataclasses import replace

    from support.pair import PairAdapter

    def edited(self: PairAdapter, request: Request) -> SourceModel:
        source = PairAdapter.load(self, request)
        first, second = source.spec.inputs
        spec = replace(source.spec, inputs=(first, replace(second, shape=("batch", "1+n", 4))))
        return SourceModel(source.module, spec, source.reference)

    with registered(Without(load=edited), "pair"), pytest.raises(ExportError, match=r"extent '1\+n'") as caught:
        convert("pair", weights=pair_weights_file, output=tmp_path / "out", samples=1)
    assert "N*NAME+N" in caught.value.hint
