from __future__ import annotations

import pytest

from convkit.errors import SettingError
from convkit_models.centernet.networks import ARCHITECTURES, Head, Layout, Stage, Step

HEADS = {"hm": 80, "wh": 2, "reg": 2}


def test_names_of_all_ten_architectures() -> None:
    depths = ("18", "34", "50", "101", "152")
    assert set(ARCHITECTURES) == {f"res_{depth}" for depth in depths} | {f"resdcn_{depth}" for depth in depths}
    assert [Layout.named(name, HEADS).architecture for name in ARCHITECTURES] == list(ARCHITECTURES)


def test_official_widths_of_resdcn_18() -> None:
    layout = Layout.named("resdcn_18", HEADS)
    assert layout.stem == 64
    assert [stage.out for stage in layout.stages] == [64, 128, 256, 512]
    assert layout.stages[1] == Stage(((128,), (128,)), 128)
    assert layout.steps == (Step(256, 256), Step(128, 128), Step(64, 64))
    assert layout.heads == (Head("hm", 80, 64), Head("wh", 2, 64), Head("reg", 2, 64))
    assert not layout.bottleneck


def test_official_widths_of_res_101() -> None:
    layout = Layout.named("res_101", HEADS, head_conv=256)
    assert [stage.out for stage in layout.stages] == [256, 512, 1024, 2048]
    assert [len(stage.inner) for stage in layout.stages] == [3, 4, 23, 3]
    assert layout.stages[2].inner[0] == (256, 256)
    assert layout.steps == (Step(0, 256),) * 3
    assert layout.channels == HEADS
    assert layout.bottleneck


def test_width_scales_everything_but_the_heads() -> None:
    layout = Layout.named("resdcn_18", HEADS, width=0.25)
    assert layout.stem == 16
    assert [stage.out for stage in layout.stages] == [16, 32, 64, 128]
    assert layout.steps == (Step(64, 64), Step(32, 32), Step(16, 16))
    assert {head.hidden for head in layout.heads} == {64}


def test_an_unknown_architecture_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingError, match="no architecture 'resdcn_19'") as error:
        Layout.named("resdcn_19", HEADS)
    assert "resdcn_1" in error.value.hint
