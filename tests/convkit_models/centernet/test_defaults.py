"""What follows from the checkpoint before anything is converted: size, mean and deviation of ddd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import make_checkpoint

from convkit.conversion import plan_conversion
from convkit_models.centernet import convkit_adapters

SPACE = {"hm": 3, "wh": 2, "dep": 1, "rot": 8, "dim": 3}


def planned(path: Path, **settings: Any) -> tuple[list[str], dict[str, tuple[Any, str]]]:
    found = plan_conversion("centernet", weights=path, settings=settings).settings
    return [str(dim) for dim in found.dims], {row["name"]: (row["value"], row["origin"]) for row in found.to_json()}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("w") / "ddd.pth", "res_18", width=0.05, heads=SPACE)


def test_of_boxes_in_space(space: Path) -> None:
    dims, settings = planned(space)
    assert dims == ["batch=1:1:8", "height=384", "width=1280"]
    assert settings["set.mean"] == ([0.485, 0.456, 0.406], "checkpoint")
    assert settings["set.std"] == ([0.229, 0.224, 0.225], "checkpoint")
    assert settings["set.topk"] == (100, "adapter")


def test_what_is_given_goes_before(space: Path) -> None:
    coco = "0.40789654,0.44719302,0.47026115"
    dims, settings = planned(space, shape=("width=640",), set={"mean": coco})
    assert dims == ["batch=1:1:8", "height=384", "width=640"]
    assert settings["set.mean"] == ([0.40789654, 0.44719302, 0.47026115], "flag")


def test_of_others_and_of_no_checkpoint(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    for file in (path, tmp_path / "junk.pth", tmp_path / "nowhere.pth"):
        dims, settings = planned(file)
        assert dims == ["batch=1:1:8", "height=512", "width=512"]
        assert settings["set.mean"] == ([0.40789654, 0.44719302, 0.47026115], "adapter")


def test_the_defaults_of_the_adapter_itself_follow(space: Path) -> None:
    (adapter,) = convkit_adapters()
    found = adapter.defaults(space, {"entry": ""})
    assert sorted(found) == ["height", "mean", "std", "width"]
