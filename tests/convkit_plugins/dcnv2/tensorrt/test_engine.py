"""An artifact with a deformable convolution, and its engine by the creator, from weights to the ladder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from convkit import Artifact
from convkit.artifact import stored_engines
from convkit.conversion import build_engine
from convkit.errors import SettingError

pytest.importorskip("tensorrt_rtx_bindings")

RTX = "tensorrt-rtx"


@pytest.fixture
def artifact(converted: Artifact, tmp_path: Path) -> Artifact:
    return Artifact.open(shutil.copytree(converted.path, tmp_path / "deformable"))


@pytest.mark.slow
def test_an_engine_by_the_creator_climbs_as_far_as_it_can_without_a_gpu(artifact: Artifact) -> None:
    built = build_engine(artifact.path, RTX, targets=["sm86,sm120"], options={"dcn": "creator"})
    states = {rung.name: rung.status for rung in built.ladder.rungs}
    assert states == {
        "exported": "passed", "typed": "not applicable", "decoded": "passed", "accepted": "passed",
        "understood": "passed", "built": "passed",
        "ran": "pending", "pipeline": "pending",
    }  # fmt: skip
    assert "It contains no code of DeformConv" in built.ladder["built"].summary
    document = json.loads((built.folder / "engine.json").read_text())
    assert document["plugins"] == ["DeformConv"]
    assert document["options"]["dcn"] == "creator"
    (layer,) = [layer for layer in document["layers"] if layer["type"] == "PLUGIN_V3"]
    assert "DeformConv" in layer["node"]
    stored_engines(artifact)[RTX].verify(artifact)
    by_default = build_engine(artifact.path, RTX, targets=["sm86"])
    assert json.loads((by_default.folder / "engine.json").read_text())["plugins"] == []
    assert "plugin" not in by_default.ladder["built"].summary


def test_the_creator_is_for_one_flavour_only(artifact: Artifact) -> None:
    with pytest.raises(SettingError, match="tensorrt-rtx") as caught:
        build_engine(artifact.path, "tensorrt", options={"dcn": "creator"})
    assert "dcn=gather" in caught.value.hint
    assert not (artifact.path / "engines").exists()
