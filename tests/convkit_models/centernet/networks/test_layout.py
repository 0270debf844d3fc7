from __future__ import annotations

import pytest

from convkit.errors import SettingError
from convkit_models.centernet.networks import ARCHITECTURES, Head, ResNetLayout, Stage, Step, named

HEADS = {"hm": 80, "wh": 2, "reg": 2}


def test_names_of_all_architectures() -> None:
    resnets = {f"{family}_{depth}" for family in ("res", "resdcn") for depth in ("18", "34", "50", "101", "152")}
    assert set(ARCHITECTURES) == resnets | {"dla_34", "dlav0_34", "hourglass"}
    assert [named(name, HEADS).architecture for name in ARCHITECTURES] == list(ARCHITECTURES)


def test_official_widths_of_resdcn_18() -> None:
    layout = named("resdcn_18", HEADS)
    assert isinstance(layout, ResNetLayout)
    assert layout.stem == 64
    assert [stage.out for stage in layout.stages] == [64, 128, 256, 512]
    assert layout.stages[1] == Stage(((128,), (128,)), 128)
    assert layout.steps == (Step(256, 256), Step(128, 128), Step(64, 64))
    assert layout.heads == (Head("hm", 80, 64), Head("wh", 2, 64), Head("reg", 2, 64))
    assert not layout.bottleneck


def test_official_widths_of_res_101() -> None:
    layout = named("res_101", HEADS, head_conv=256)
    assert isinstance(layout, ResNetLayout)
    assert [stage.out for stage in layout.stages] == [256, 512, 1024, 2048]
    assert [len(stage.inner) for stage in layout.stages] == [3, 4, 23, 3]
    assert layout.stages[2].inner[0] == (256, 256)
    assert layout.steps == (Step(0, 256),) * 3
    assert layout.channels == HEADS
    assert layout.bottleneck


def test_width_scales_everything_but_the_heads() -> None:
    layout = named("resdcn_18", HEADS, width=0.25)
    assert isinstance(layout, ResNetLayout)
    assert layout.stem == 16
    assert [stage.out for stage in layout.stages] == [16, 32, 64, 128]
    assert layout.steps == (Step(64, 64), Step(32, 32), Step(16, 16))
    assert {head.hidden for head in layout.heads} == {64}


def test_an_unknown_architecture_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingError, match="no architecture 'resdcn_19'") as error:
        named("resdcn_19", HEADS)
    assert "resdcn_1" in error.value.hint


@pytest.mark.parametrize(
    ("architecture", "widths", "multiple", "deformable"),
    [
        ("res_18", (64, 64, 128, 256, 512, 256, 256, 256), 32, 0),
        ("resdcn_50", (64, 256, 512, 1024, 2048, 256, 128, 64), 32, 3),
        ("dla_34", (16, 32, 64, 128, 256, 512), 32, 16),
        ("dlav0_34", (16, 32, 64, 128, 256, 512), 32, 0),
        ("hourglass", (128, 256, 256, 384, 384, 384, 512, 256), 128, 0),
    ],
)
def test_what_each_family_says_of_itself(
    architecture: str, widths: tuple[int, ...], multiple: int, deformable: int
) -> None:
    layout = named(architecture, HEADS)
    assert (layout.widths, layout.multiple, layout.deformable) == (widths, multiple, deformable)
