"""Engines of an artifact, built by NVIDIA's genuine TensorRT-RTX; no GPU is needed and nothing is run."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from support.disks import small_disk
from support.plans import same_plan
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import Artifact, NodeRewrite, Rewrite, hookimpl
from convkit.artifact import engine_staging, stored_engines
from convkit.conversion import build_engine, convert
from convkit.errors import ConversionError, EnvironmentProblem, IntegrityError, ProofFailedError, SettingError

pytest.importorskip("tensorrt_rtx_bindings")

NAME = "tensorrt-rtx"


@pytest.fixture
def artifact(toy_artifact: Artifact, tmp_path: Path, toy: ToyPlugin) -> Artifact:
    """A copy of the toy's artifact, with its plugin installed."""
    return Artifact.open(shutil.copytree(toy_artifact.path, tmp_path / "toy"))


def states(ladder: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: rung["status"] for name, rung in ladder.items()}


def test_an_engine_is_built_from_the_artifact_alone(artifact: Artifact) -> None:
    built = build_engine(artifact.path, NAME, targets=["sm86,sm120"])
    assert built.folder == artifact.path / "engines" / NAME
    assert built.engine.targets == ("sm86", "sm120")
    assert built.engine.file.read_bytes()[:4] == b"vtrt", "not a plan of TensorRT"
    stored = stored_engines(artifact)[NAME]
    assert states(dict(stored.ladder)) == {
        "exported": "passed", "typed": "not applicable", "decoded": "passed", "accepted": "passed",
        "understood": "passed", "built": "passed",
        "ran": "pending", "pipeline": "pending",
    }  # fmt: skip
    types = {layer["type"] for layer in stored.description["layers"]}
    assert {"CONVOLUTION", "ACTIVATION"} <= types
    stored.verify(artifact)
    artifact.verify()


def test_the_replay_saw_every_shape_of_the_profile(artifact: Artifact) -> None:
    ladder = build_engine(artifact.path, NAME, targets=["sm86"]).ladder
    batches = sorted(shapes["images"][0] for shapes in ladder["understood"].details["shapes"])
    assert batches[0] == 1
    assert batches[-1] == 4


def test_a_rebuild_gives_the_same_plan_and_replaces_the_engine(artifact: Artifact) -> None:
    first = build_engine(artifact.path, NAME, targets=["sm89"]).engine.file.read_bytes()
    second = build_engine(artifact.path, NAME, targets=["sm89"]).engine.file.read_bytes()
    assert same_plan(first, second)
    assert [folder.name for folder in (artifact.path / "engines").iterdir()] == [NAME]


def test_an_unknown_target_is_refused_before_anything_is_built(artifact: Artifact) -> None:
    with pytest.raises(ConversionError, match="sm90") as caught:
        build_engine(artifact.path, NAME, targets=["sm90"])
    assert "sm120" in caught.value.hint
    assert not (artifact.path / "engines").exists()


@pytest.mark.parametrize(
    ("to", "settings", "message"),
    [
        ("tensorrt-rtxx", {}, "builds no "),
        ("onnxruntime", {}, "builds no "),
        (NAME, {"options": {"dcm": "gather"}}, "no plugin has an option|No plugin has an option"),
        (NAME, {"options": {"dcn": "sideways"}}, "cannot be"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    artifact: Artifact, to: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        build_engine(artifact.path, to, **settings)  # type: ignore[arg-type]


def test_an_engine_that_was_changed_is_found(artifact: Artifact) -> None:
    plan = build_engine(artifact.path, NAME, targets=["sm86"]).engine.file
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"model\.plan"):
        stored_engines(artifact)[NAME].verify(artifact)


def test_an_engine_of_another_graph_is_found(artifact: Artifact) -> None:
    description = build_engine(artifact.path, NAME, targets=["sm86"]).folder / "engine.json"
    document = json.loads(description.read_text())
    document["artifact"]["model.onnx"] = "0" * 64
    description.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="another graph"):
        stored_engines(artifact)[NAME].verify(artifact)


class Scale(NodeRewrite):
    """A rewrite of phase target that multiplies what a Gemm returns; 1 changes nothing."""

    name: ClassVar[str] = "test.scale"
    reason: ClassVar[str] = "for the test"
    phase: ClassVar = "target"
    op_types: ClassVar[tuple[str, ...]] = ("Gemm",)
    factor: float = 1.0

    def match(self, graph: gs.Graph, node: gs.Node) -> bool | None:
        return None if node.name.endswith("/scaled") else True

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: bool) -> None:
        node.name += "/scaled"
        output = node.outputs[0]
        inner = gs.Variable(f"{output.name}/inner", np.float32)
        node.outputs = [inner]
        factor = gs.Constant(f"{output.name}/factor", np.array(self.factor, np.float32))
        graph.nodes.append(gs.Node("Mul", f"{node.name}/mul", inputs=[inner, factor], outputs=[output]))


class ScalePlugin:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    @hookimpl
    def convkit_graph_rewrites(self, target: object) -> Iterable[Rewrite]:
        scale = Scale()
        scale.factor = self.factor
        return [scale] if getattr(target, "format", "") == NAME else []


def test_a_rewrite_for_the_target_is_proved_before_the_parser_sees_the_graph(artifact: Artifact) -> None:
    with registered(ScalePlugin(1.0), "scale"):
        built = build_engine(artifact.path, NAME, targets=["sm86"])
    assert built.ladder["exported"].details["rewrites"] == {"test.scale": 1}
    assert (built.folder / "model.onnx").is_file(), "the graph that the engine was built from"


def test_a_rewrite_for_the_target_that_changes_the_result_is_a_failed_proof(artifact: Artifact) -> None:
    with registered(ScalePlugin(1.01), "scale"), pytest.raises(ProofFailedError, match="computes"):
        build_engine(artifact.path, NAME, targets=["sm86"])
    assert not (artifact.path / "engines" / NAME).exists()
    rejected = json.loads((artifact.path / "engines" / f"{NAME}.rejected" / "verdict.json").read_text())
    assert rejected["ladder"]["exported"]["status"] == "failed"
    assert NAME not in stored_engines(artifact)


def test_convert_builds_the_engine_that_was_asked_for(toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path) -> None:
    done = convert("toy", weights=toy_weights_file, output=tmp_path / "toy", to=NAME, target="sm86", samples=2)
    assert done.engine is not None
    assert done.engine.engine.targets == ("sm86",)
    assert done.artifact.manifest["graph"]["format"] == "onnx"
    names = {item["name"]: item["value"] for item in done.artifact.manifest["settings"]}
    assert names["to"] == NAME


def test_a_target_without_an_engine_is_refused(toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="ONNX"):
        convert("toy", weights=toy_weights_file, output=tmp_path / "toy", target="sm86")


def test_a_target_that_cannot_be_is_refused_before_the_work(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path
) -> None:
    steps: list[str] = []
    with pytest.raises(ConversionError, match="sm90") as caught:
        convert(
            "toy", weights=toy_weights_file, output=tmp_path / "toy", to=NAME, target="sm90",
            progress=lambda step, *_: steps.append(step),
        )  # fmt: skip
    assert "was written" not in caught.value.hint
    assert not steps
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_cannot_be_built_leaves_an_artifact_that_is_named(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise ConversionError("It cannot be built.", hint="Build another.")

    monkeypatch.setattr("convkit.conversion._engines.build_engine", fails)
    with pytest.raises(ConversionError) as caught:
        convert("toy", weights=toy_weights_file, output=tmp_path / "toy", to=NAME, samples=2)
    assert caught.value.hint == f"Build another. The artifact {tmp_path / 'toy'} was written, without an engine."
    assert Artifact.open(tmp_path / "toy").verify() is None


def test_what_a_killed_build_left_behind_goes(artifact: Artifact) -> None:
    left = artifact.path / "engines" / f".{NAME}.1.x.partial"
    left.mkdir(parents=True)
    build_engine(artifact.path, NAME, targets=["sm86"])
    assert not left.exists()


def test_builds_at_once_leave_one_whole_engine(artifact: Artifact) -> None:
    failures: list[BaseException] = []

    def publish(mark: str) -> None:
        try:
            for _ in range(30):
                with engine_staging(artifact.path, NAME) as staged:
                    for name in ("model.plan", "engine.json"):
                        (staged.folder / name).write_text(mark)
                    staged.publish()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(mark,)) for mark in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    folder = artifact.path / "engines" / NAME
    assert (folder / "model.plan").read_text() == (folder / "engine.json").read_text()
    assert [path.name for path in folder.parent.iterdir()] == [NAME]


def test_a_full_disk_leaves_the_artifact_as_it_was(artifact: Artifact, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4000) as disk:
        if not disk.is_mount():
            pytest.skip("no small file system can be mounted here")
        copy = disk / "toy"
        shutil.copytree(artifact.path, copy)
        before = sorted(path.relative_to(copy) for path in copy.rglob("*"))
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        with pytest.raises(EnvironmentProblem, match="space") as caught:
            build_engine(copy, NAME, targets=["sm86"])
        assert caught.value.hint == "Free some space, or copy the artifact to a folder that you may write to."
        assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == before
