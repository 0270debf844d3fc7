"""convert(): what was asked is done and proved, refused early, or rejected with the proof of why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import onnx
import pytest
import torch
from support.disks import small_disk
from support.imprecise import change_onnxruntime
from support.plugins import registered
from support.toy import ToyAdapter, ToyNet, ToyPlugin, toy_weights

import convkit
from convkit import Artifact, ModulePatch, Option, Request, SourceModel, convert, exactly, hookimpl, load, validate
from convkit.conversion import check_graph, default_output, plan_conversion
from convkit.errors import (
    AdapterNotFoundError,
    ConversionError,
    EnvironmentProblem,
    ExportError,
    ImageError,
    InputError,
    OutputError,
    PatchError,
    PluginError,
    ProofFailedError,
    RewriteError,
    SettingError,
    ValidationError,
)
from convkit.graph import MODULE_KEY
from convkit.processing import synthetic_scenes


def test_an_artifact_holds_graph_manifest_proof_and_report(toy_artifact):
    files = {str(path.relative_to(toy_artifact.path)) for path in toy_artifact.path.rglob("*") if path.is_file()}
    files -= {name for name in files if name.startswith("proof/backends/")}  # of tests that validated it elsewhere
    assert files == {
        "manifest.json",
        "model.onnx",
        "report.html",
        "proof/verdict.json",
        "proof/rewrites.json",
        "proof/samples.npz",
        "proof/layers.npz",
        "proof/samples.json",
        "proof/input_0.png",
        "proof/input_1.png",
    }
    assert set(toy_artifact.manifest["files"]) == files - {"manifest.json"}
    assert [path.name for path in toy_artifact.path.parent.iterdir()] == ["toy"]


def test_the_graph_is_valid_named_and_says_who_made_it(toy_artifact):
    model = onnx.load(toy_artifact.model)
    check_graph(model)
    assert (model.producer_name, model.producer_version) == ("convkit", convkit.__version__)
    stamped = {entry.key: entry.value for entry in model.metadata_props}
    assert [stamped[f"convkit.{key}"] for key in ("adapter", "variant", "form")] == ["toy", "toy_1", "logits"]
    assert isinstance(json.loads(stamped["convkit.rewrites"]), list)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    paths = {entry.value for node in model.graph.node for entry in node.metadata_props if entry.key == MODULE_KEY}
    assert {"body", "head"} <= paths
    assert model.ir_version == toy_artifact.manifest["graph"]["ir_version"]


def test_the_ledger_enters_every_stage_in_order(toy_artifact):
    stages = [stage["name"] for stage in toy_artifact.verdict["ledger"]]
    assert stages[:3] == ["PyTorch float32", "patched", "exported"]
    assert set(stages[3:]) <= {entry["name"] for entry in toy_artifact.manifest["rewrites"]}
    assert all(stage["passed"] for stage in toy_artifact.verdict["ledger"])
    assert toy_artifact.verdict["inputs"] == "8 samples of the adapter, seed 0"


def test_nothing_in_an_artifact_tells_where_it_was_made(toy_artifact, toy_weights_file):
    secrets = [str(toy_weights_file.parent), str(toy_artifact.path.parent), "site-packages"]
    for path in toy_artifact.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes().decode("latin-1")
            assert not any(secret in content for secret in secrets), path


class Watching(ToyPlugin):
    """Has an option of its own, and notes the options that its hooks are given."""

    seen: ClassVar[dict[str, dict[str, Any]]] = {}

    @hookimpl
    def convkit_options(self):
        return [Option("haste", 3, "how much of a hurry there is")]

    @hookimpl
    def convkit_export_patches(self, adapter, target):
        self.seen["patches"] = dict(target.options)
        return super().convkit_export_patches(adapter)

    @hookimpl
    def convkit_onnx_translations(self, target):
        self.seen["translations"] = dict(target.options)
        return {}

    @hookimpl
    def convkit_graph_rewrites(self, target):
        self.seen["rewrites"] = dict(target.options)
        return []


@pytest.fixture(scope="module")
def tailored(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Convert with every setting another than its default: own images, names, shape, opset and option."""
    folder = tmp_path_factory.mktemp("tailored")
    (folder / "photos").mkdir()
    for index, scene in enumerate(synthetic_scenes(5, seed=7, height=40, width=60)):
        cv2.imwrite(str(folder / "photos" / f"{index}.png"), scene)
    (folder / "names.txt").write_text("Äpfel\nBirnen\n\n  Kirschen \nPflaumen\n", encoding="utf-8")
    (folder / "mine.toml").write_text("[convert]\nopset = 19\nseed = 3\n[convert.toy]\nsamples = 3\n")
    with registered(Watching()):
        return convert(
            "toy",
            weights=str(toy_weights_file),
            output=str(folder / "out"),
            config=folder / "mine.toml",
            inputs=folder / "photos",
            names=folder / "names.txt",
            shape=["batch=2", "height=48", "width=40"],
            set={"scale": 2.0, "haste": 7},
        ).artifact


def test_patches_translations_and_rewrites_learn_the_options_of_the_adapter_and_of_plugins(tailored):
    assert {hook: (options["scale"], options["haste"]) for hook, options in Watching.seen.items()} == {
        "patches": (2.0, 7),
        "translations": (2.0, 7),
        "rewrites": (2.0, 7),
    }


def test_settings_reach_the_result_and_the_manifest_says_whence(tailored):
    manifest = tailored.manifest
    settings = {item["name"]: (item["value"], item["origin"]) for item in manifest["settings"]}
    assert settings["opset"] == (19, "mine.toml")
    assert settings["samples"] == (3, "mine.toml")
    assert settings["shape"] == (["batch=2", "height=48", "width=40"], "flag")
    assert settings["set.scale"] == (2.0, "flag")
    assert settings["inputs"] == ("photos", "flag")
    assert settings["form"] == ("logits", "adapter")
    assert settings["backend"] == ("onnxruntime", "built-in")
    model = onnx.load(tailored.model)
    assert next(entry.version for entry in model.opset_import if entry.domain == "") == 19
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 48, 40]
    assert manifest["model"]["classes"] == ["Äpfel", "Birnen", "Kirschen", "Pflaumen"]
    assert manifest["model"]["preprocess"]["scale"] == 2.0
    assert tailored.verdict["inputs"] == "3 images from photos"
    index = json.loads((tailored.path / "proof" / "samples.json").read_text())
    assert index["sources"] == ["0.png", "1.png"]


def test_a_static_batch_of_two_still_runs_single_images(toy, tailored):
    image = synthetic_scenes(1, seed=3)[0]
    with load(tailored) as predictor:
        result = predictor(image)
    net = ToyNet(4).eval()
    net.load_state_dict(toy_weights())
    tensor = cv2.resize(image, (40, 48)).astype(np.float32).transpose(2, 0, 1) / 510
    with torch.no_grad():
        expected = net(torch.from_numpy(tensor)[None])["logits"].softmax(1)[0].numpy()
    np.testing.assert_allclose(result.probabilities, expected, rtol=1e-4)
    assert validate(tailored).passed


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"adapter": "tyo"}, AdapterNotFoundError, "no adapter 'tyo'"),
    ({"form": "logit"}, SettingError, "'logit'"),
    ({"shape": ["batch=0"]}, SettingError, "0:0:0"),
    ({"set": {"scael": 1}}, SettingError, "'scael'"),
    ({"output": "taken"}, OutputError, "exists already"),
    ({"output": "taken/file/out"}, OutputError, "Cannot write"),
    ({"output": "occupied"}, OutputError, r"occupied\.rejected is not an artifact"),
    ({"inputs": "nowhere"}, InputError, "no folder"),
    ({"inputs": "taken"}, InputError, "holds no images"),
    ({"inputs": "broken.png"}, ImageError, "0 bytes"),
    ({"names": "nowhere.txt"}, SettingError, "cannot be read"),
    ({"names": "broken.png"}, SettingError, "is empty"),
    ({"names": "latin.txt"}, SettingError, "cannot be read"),
    ({"config": "nowhere.toml"}, SettingError, "no configuration file"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_cannot_be_done_is_refused_before_any_work(
    toy, toy_weights_file, tmp_path, monkeypatch, arguments, error, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    (tmp_path / "occupied.rejected").mkdir()
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes("Äpfel".encode("latin-1"))
    before = sorted(tmp_path.rglob("*"))
    given = {"adapter": "toy", "weights": toy_weights_file, "output": "out", **arguments}
    given = {key: Path(value) if key in ("config", "inputs", "names") else value for key, value in given.items()}
    with pytest.raises(error, match=message):
        convert(**given)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_artifact_is_replaced_only_on_request(toy, toy_weights_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = convert("toy", weights=toy_weights_file, samples=1).artifact
    assert first.path == Path("toy-toy1-32")
    with pytest.raises(OutputError, match="toy-toy1-32 exists already"):
        convert("toy", weights=toy_weights_file, samples=2)
    second = convert("toy", weights=toy_weights_file, samples=2, overwrite=True).artifact
    second.verify()
    assert second.verdict["inputs"] == "2 samples of the adapter, seed 0"
    assert [path.name for path in tmp_path.iterdir()] == ["toy-toy1-32"]


def test_the_artifact_in_the_working_directory_is_replaced_by_the_name_dot(
    toy, toy_artifact, toy_weights_file, tmp_path, monkeypatch
):
    copy = Path(shutil.copytree(toy_artifact.path, tmp_path / "out"))
    (copy / "of the old one").touch()
    monkeypatch.chdir(copy)
    made = convert("toy", weights=toy_weights_file, output=".", samples=1, overwrite=True).artifact
    made.verify()
    assert made.path == copy
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (copy / "of the old one").exists()


@pytest.mark.parametrize(
    ("variant", "shape", "form", "name"),
    [
        ("toy_1", [], "logits", "toy-toy1-32"),
        ("toy_1", ["height=64"], "logits", "toy-toy1-64x32"),
        ("", ["height=48:64:96"], "logits", "toy-64x32"),
        ("toy_1", [], "other", "toy-toy1-32-other"),
    ],
)
def test_the_default_name_tells_variant_size_and_form(toy, toy_weights_file, variant, shape, form, name):
    plan = plan_conversion("toy", weights=toy_weights_file, settings={"shape": shape})
    source = plan.adapter.load(Request(toy_weights_file, "logits", plan.settings.dims, None, {"scale": 1.0}))
    source.spec = replace(source.spec, variant=variant)
    assert default_output(plan.adapter, source, form) == Path(name)


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        (lambda logits: logits * 1.001, "patched"),
        (lambda logits: logits[:1].expand(logits.shape), None),
        (lambda logits: logits / 0, "patched"),
    ],
    ids=["off by a thousandth", "samples mixed", "infinite"],
)
def test_a_result_that_fails_its_proof_is_kept_as_rejected_and_never_used(toy_weights_file, tmp_path, fault, stage):
    """The ledger uses one shape, with a batch of one; what mixes samples shows in the checks alone."""
    with registered(ToyPlugin(fault=fault)):
        with pytest.raises(ProofFailedError, match="does not compute what PyTorch computes") as caught:
            convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=2)
        assert caught.value.exit_code == 4
        assert [path.name for path in tmp_path.iterdir()] == ["out.rejected"]
        assert "out.rejected" in caught.value.hint
        verdict = caught.value.verdict
        assert verdict is not None
        assert verdict.failures
        assert next((row.name for row in verdict.ledger if not row.passed), None) == stage
        rejected = Artifact.open(tmp_path / "out.rejected")
        rejected.verify()
        assert rejected.manifest["verdict"]["passed"] is False
        with pytest.raises(ValidationError, match="was rejected"):
            load(rejected)
        assert not validate(rejected).passed


def test_a_backend_that_computes_too_inexactly_is_told_from_a_graph_that_is_wrong(
    toy, toy_weights_file, tmp_path, monkeypatch
):
    change_onnxruntime(monkeypatch, lambda value: value * 1.001)
    with pytest.raises(ProofFailedError) as caught:
        convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=2)
    assert caught.value.message.startswith("onnxruntime does not compute what PyTorch computes: NOT proved: ")
    assert caught.value.hint.startswith("The graph is right: PyTorch runs it within the same limits.")
    assert "--backend torch" in caught.value.hint
    assert "out.rejected" in caught.value.hint
    done = convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=2, backend="torch")
    assert done.verdict.passed
    assert validate(done.artifact).passed


def test_another_rejected_result_replaces_the_one_before(toy_weights_file, tmp_path, toy_artifact):
    shutil.copytree(toy_artifact.path, tmp_path / "out.rejected")
    with registered(ToyPlugin(fault=lambda logits: logits + 1)), pytest.raises(ProofFailedError):
        convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=1)
    assert Artifact.open(tmp_path / "out.rejected").manifest["verdict"]["passed"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["out.rejected"]


class Patching(ToyPlugin):
    """The toy with another export patch."""

    def __init__(self, forward: Callable[..., Any], match: Callable[..., Any] = lambda path, _: path == "") -> None:
        super().__init__()
        self.forward, self.match = forward, match

    @hookimpl
    def convkit_export_patches(self, adapter: str) -> Iterable[ModulePatch]:
        return [ModulePatch("toy.tuple", "", self.match, self.forward)] if adapter == "toy" else []


def logits_of(module: Any, original: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (original(images)["logits"],)


def explode(module: Any, original: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if torch.compiler.is_exporting():
        raise RuntimeError("cannot be traced")
    return logits_of(module, original, images)


def shrink(module: Any, original: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        module.body.weight.mul_(0.999)
    return logits_of(module, original, images)


FAILING = [
    (Patching(shrink), PatchError, "changes its own weights when it runs: body.weight. Patches: 'toy.tuple'"),
    (Patching(lambda module, original, images: (images, images)), ConversionError, "returns 2 values"),
    (Patching(logits_of, lambda path, module: False), PatchError, "matches 0 modules"),
    (Patching(explode), ExportError, "cannot be traced"),
]


@pytest.mark.parametrize(("plugin", "error", "message"), FAILING, ids=[row[2] for row in FAILING])
def test_a_conversion_that_fails_leaves_nothing(toy_weights_file, tmp_path, plugin, error, message):
    with registered(plugin), pytest.raises(error, match=message) as caught:
        convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=1)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_what_the_export_does_to_the_network_does_not_reach_the_reference(toy_weights_file, tmp_path, threads):
    seen: list[Any] = []

    def shrink_the_second_time(path: str, module: Any) -> bool:
        if path == "":
            seen.append(module)
            if len(seen) == 2:
                module.body.weight.data.mul_(0.9)
        return path == ""

    count = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with registered(Patching(logits_of, shrink_the_second_time)), pytest.raises(ProofFailedError) as caught:
            convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=4)
    finally:
        torch.set_num_threads(count)
    assert caught.value.verdict is not None
    exported = {row.name: row for row in caught.value.verdict.ledger}["exported"]
    assert exported.against_float64 > 1e-3
    assert exported.limit < 1e-5


def expecting(monkeypatch: pytest.MonkeyPatch, **expect: Any) -> None:
    original = ToyAdapter.load

    def load_more(self: ToyAdapter, request: Request) -> SourceModel:
        source = original(self, request)
        source.spec = replace(source.spec, expect={name.replace("__", "."): value for name, value in expect.items()})
        return source

    monkeypatch.setattr(ToyAdapter, "load", load_more)


@pytest.mark.parametrize(
    ("expect", "error", "message"),
    [
        ({"toy__tuple": exactly(2)}, PatchError, "'toy.tuple' matches 1 module; it declares exactly 2"),
        (
            {"graph__drop-identity": exactly(7)},
            RewriteError,
            "'graph.drop-identity' fired 0 times",
        ),
        (
            {"dcnv3__op": exactly(1)},
            ConversionError,
            "expects 'dcnv3.op' to fire exactly 1, but no loaded",
        ),
    ],
    ids=["patch", "rewrite", "of no plugin"],
)
def test_expectations_of_the_model_that_are_not_met_fail_the_conversion(
    toy, toy_weights_file, tmp_path, monkeypatch, expect, error, message
):
    expecting(monkeypatch, **expect)
    with pytest.raises(error, match=message):
        convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=1)
    assert list(tmp_path.iterdir()) == []


def test_weights_with_values_that_are_no_numbers_are_refused(toy, tmp_path):
    state = toy_weights()
    state["body.weight"][3, 2, 1, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(convkit.CheckpointError, match=r"body\.weight"):
        convert("toy", weights=tmp_path / "nan.pth", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_hook_is_reported_with_the_name_of_its_plugin(toy, toy_weights_file, tmp_path):
    class Rotten:
        @hookimpl
        def convkit_graph_rewrites(self) -> Iterable[Any]:
            raise ZeroDivisionError("oops")

    with registered(Rotten(), "rotten"), pytest.raises(PluginError, match="'rotten' failed in convkit_graph_rewrites"):
        convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=1)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_unknown_is_refused(toy, toy_weights_file, tmp_path):
    with pytest.raises(SettingError, match="no backend 'tensorrtx'"):
        convert("toy", weights=toy_weights_file, output=tmp_path / "out", backend="tensorrtx", samples=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kilobytes", [4, 120, 600])
def test_a_disk_that_fills_up_during_a_conversion_leaves_nothing(toy, toy_weights_file, tmp_path, kilobytes):
    """It is full at the first graph, at the samples, or at their images."""
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        with pytest.raises(EnvironmentProblem, match="No room to write") as caught:
            convert("toy", weights=toy_weights_file, output=disk / "out")
        assert list(disk.iterdir()) == []
    assert "Free some space" in caught.value.hint
