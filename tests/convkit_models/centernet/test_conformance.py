"""The CenterNet adapter does all that convkit asks of an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from support.checkpoints import make_checkpoint

from convkit.processing import synthetic_scenes
from convkit.testing import AdapterConformance

pytestmark = pytest.mark.slow


class TestDeformable(AdapterConformance):
    """A narrow resdcn_18 in all output forms; the DCNv2 plugin brings translation and rewrite."""

    adapter = "centernet"
    shapes = ("height=64", "width=96")

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp("weights") / "resdcn_18.pth")


class TestPoses(AdapterConformance):
    """A narrow res_18 for poses, whose graph chooses people and their joints."""

    adapter = "centernet"
    shapes = ("batch=1:1:2", "height=64", "width=64")
    forms = ("detections",)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        heads = {"hm": 1, "wh": 2, "reg": 2, "hps": 34, "hm_hp": 17, "hp_offset": 2}
        return make_checkpoint(tmp_path_factory.mktemp("weights") / "pose.pth", "res_18", heads=heads, width=0.1)


class TestKeptResolution(AdapterConformance):
    """A narrow res_18 whose height and width vary with the image."""

    adapter = "centernet"
    shapes = ("batch=1:2:3", "height=32:64:128", "width=64:96:128")
    options: ClassVar = {"resize": "keep_res"}
    forms = ("heads",)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp("weights") / "res_18.pth", "res_18")

    @pytest.fixture(scope="class")
    @classmethod
    def raws(cls) -> list[np.ndarray]:
        """Return images that fit into the range without being resized."""
        return synthetic_scenes(4, height=60, width=90)


class TestSpace(AdapterConformance):
    """A narrow res_18 for boxes in space, in a small size of its own."""

    adapter = "centernet"
    shapes = ("height=32", "width=96")
    forms = ("heads",)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        heads = {"hm": 3, "wh": 2, "reg": 2, "dep": 1, "rot": 8, "dim": 3}
        return make_checkpoint(tmp_path_factory.mktemp("weights") / "ddd.pth", "res_18", heads=heads, width=0.1)
