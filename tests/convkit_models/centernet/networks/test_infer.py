from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convkit.errors import CheckpointError
from convkit_models.centernet.networks import (
    ARCHITECTURES,
    BLOCKS,
    DlaLayout,
    Head,
    HourglassLayout,
    Layout,
    ResNetLayout,
    Stage,
    Step,
    check_fit,
    expected_shapes,
    infer_layout,
    named,
)
from convkit_models.centernet.tasks import choose_task

HEADS = {"hm": 80, "wh": 2, "reg": 2}
Shapes = dict[str, tuple[int, ...]]


def load(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Infer and check, as the adapter does."""
    layout = infer_layout(shapes, "w.pth")
    task = choose_task(layout, "w.pth")
    check_fit(layout, expected_shapes(layout), shapes, "w.pth")
    task.room.check_heads(layout, "w.pth")
    return layout


def refusal(shapes: Mapping[str, tuple[int, ...]]) -> str:
    with pytest.raises(CheckpointError) as error:
        load(shapes)
    assert error.value.hint
    return error.value.message


@pytest.fixture
def shapes() -> Shapes:
    return expected_shapes(named("resdcn_18", HEADS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_official_networks(architecture: str) -> None:
    layout = named(architecture, HEADS)
    assert load(expected_shapes(layout)) == layout


widths = st.integers(1, 9)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    classes = draw(st.integers(1, 90))
    kind = draw(st.sampled_from(["resnet", "dla", "hourglass"]))
    hidden = draw(st.sampled_from([0, 1, 5, 64] if kind != "hourglass" else [1, 5, 64]))
    heads = [Head("hm", classes, hidden), Head("wh", draw(st.sampled_from([2, 2 * classes])), hidden)]
    if draw(st.booleans()):
        heads.append(Head("reg", 2, hidden))
    if kind == "dla":
        levels = draw(st.tuples(*[st.integers(2, 9)] * 6))
        return DlaLayout(draw(st.sampled_from(["dla", "dlav0"])), levels, tuple(heads))
    if kind == "hourglass":
        levels = draw(st.integers(1, 3))
        dims, blocks = (tuple(draw(st.integers(low, 4)) for _ in range(levels + 1)) for low in (2, 1))
        return HourglassLayout(draw(st.integers(1, 3)), draw(widths), dims, blocks, draw(widths), tuple(heads))
    depth = draw(st.sampled_from([18, 34, 50]))
    family = draw(st.sampled_from(["res", "resdcn"]))
    inner = st.tuples(widths, widths) if depth == 50 else st.tuples(widths)
    stages = tuple(Stage(tuple(draw(inner) for _ in range(count)), draw(widths)) for count in BLOCKS[depth])
    steps = tuple(Step(draw(widths) if family == "resdcn" else 0, draw(widths)) for _ in range(3))
    return ResNetLayout(family, depth, draw(widths), stages, steps, tuple(heads))


@settings(max_examples=30, deadline=None)
@given(layouts())
def test_any_widths_heads_and_classes(layout: Layout) -> None:
    """Whatever the widths, even one for each block, the tensors tell them."""
    assert load(expected_shapes(layout)) == layout


@settings(max_examples=15, deadline=None)
@given(layouts(), st.data())
def test_one_wrong_tensor_is_named_alone(layout: Layout, data: st.DataObject) -> None:
    """A tensor whose shape disagrees with the others around it is reported, not followed."""
    shapes = expected_shapes(layout)
    norms = [name for name in shapes if name.endswith(".running_mean")]
    name = data.draw(st.sampled_from(norms))
    shapes[name] = (shapes[name][0] + 1,)
    found = refusal(shapes)
    assert f"shape: {name} is {shapes[name]}" in found
    assert found.count("\n  ") == 1


def test_a_missing_entry_is_listed(shapes: Shapes) -> None:
    del shapes["layer3.1.conv2.weight"]
    found = refusal(shapes)
    assert "does not fit resdcn_18, the closest architecture: 176 of its 177 entries do" in found
    assert found.splitlines()[1:] == ["  missing: layer3.1.conv2.weight (256, 256, 3, 3)"]


def test_an_extra_entry_is_listed(shapes: Shapes) -> None:
    shapes["layer1.0.conv9.weight"] = (2, 64, 3, 3)
    assert refusal(shapes).splitlines()[1:] == ["  extra: layer1.0.conv9.weight (2, 64, 3, 3)"]


def test_a_wrong_shape_is_listed_with_the_right_one(shapes: Shapes) -> None:
    shapes["layer2.0.conv1.weight"] = (100, 64, 3, 3)
    assert refusal(shapes).splitlines()[1:] == [
        "  shape: layer2.0.conv1.weight is (100, 64, 3, 3), expected (128, 64, 3, 3)"
    ]


def test_long_lists_are_cut(shapes: Shapes) -> None:
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("layer4.1.")}
    lines = refusal(shapes).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  … and 2 more"
    assert all(line.startswith("  missing: layer4.1.") for line in lines[1:-1])


def test_a_lost_block_is_no_architecture_of_its_own(shapes: Shapes) -> None:
    lost = {name: shape for name, shape in shapes.items() if not name.startswith("layer4.1.")}
    assert "resdcn_18, the closest" in refusal(lost)


@pytest.mark.parametrize(
    ("architecture", "lost", "closest"),
    [("res_34", "layer3.5.", "res_34"), ("resdcn_50", "layer3.5.", "resdcn_50"), ("res_101", "layer3.22.", "res_101")],
)
def test_the_closest_depth_is_named(architecture: str, lost: str, closest: str) -> None:
    found = expected_shapes(named(architecture, HEADS))
    assert f"does not fit {closest}," in refusal({n: s for n, s in found.items() if not n.startswith(lost)})


class TestHeads:
    def test_the_offset_may_be_absent(self, shapes: Shapes) -> None:
        layout = load({name: shape for name, shape in shapes.items() if not name.startswith("reg.")})
        assert layout.channels == {"hm": 80, "wh": 2}

    def test_half_an_offset_head_is_not_absent(self, shapes: Shapes) -> None:
        del shapes["reg.2.bias"]
        assert "missing: reg.2.bias (2,)" in refusal(shapes)

    @pytest.mark.parametrize("name", ["hm", "wh"])
    def test_heat_map_and_size_must_be_there(self, shapes: Shapes, name: str) -> None:
        left = {key: shape for key, shape in shapes.items() if not key.startswith(f"{name}.")}
        assert f"w.pth has no head '{name}'; its heads are" in refusal(left)

    @pytest.mark.parametrize("channels", [1, 3, 80, 161])
    def test_the_size_head_has_two_or_two_a_class(self, channels: int) -> None:
        found = refusal(expected_shapes(named("res_18", {"hm": 80, "wh": channels})))
        assert f"a head wh of {channels} channels, with 80 classes" in found

    def test_the_offset_head_has_two(self) -> None:
        assert "head reg of 3 channels" in refusal(expected_shapes(named("res_18", {"hm": 8, "wh": 2, "reg": 3})))

    def test_the_order_in_the_file_does_not_matter(self, shapes: Shapes) -> None:
        assert load(dict(reversed(shapes.items()))) == named("resdcn_18", HEADS)


class TestOtherNetworks:
    @pytest.mark.parametrize(
        ("entries", "family"),
        [
            (["conv1.weight", "deconv_layer1.0.weight", "smooth_layer1.conv.weight"], "a ResNet with FPN and DCN"),
            (["conv1.weight", "transition1.0.0.weight", "stage2.0.branches.0.0.conv1.weight"], "hrnet"),
            (["backbone.conv1.weight", "neck.deconv_layers.0.weight", "bbox_head.wh_head.0.bias"], "a CenterNet of MM"),
            (["backbone.conv1.weight", "decoder.deconv_layers.0.weight", "head.wh_head.0.bias"], "centernet-pytorch"),
            (["backbone.body.conv1.weight", "rpn.head.conv.weight", "roi_heads.box_head.fc6.weight"], "a two-stage"),
            (["kps.0.up1.0.conv1.weight", "tl_cnvs.0.p1_conv1.conv.weight"], "a hourglass as CornerNet has it"),
            (["model.0.conv.weight", "model.1.conv.weight", "model.24.m.0.weight"], "YOLO"),
        ],
    )
    def test_other_families_are_named(self, entries: list[str], family: str) -> None:
        found = refusal(dict.fromkeys([*entries, "hm.0.weight", "wh.0.weight", "reg.0.weight"], (1,)))
        assert f"is a checkpoint of {family}" in found

    @pytest.mark.parametrize(
        ("heads", "task"),
        [
            ({"hm": 1, "wh": 2, "hps": 16, "hps_uncertainty": 16, "scale": 3}, "object_pose (CenterPose)"),
            ({"hm": 1, "wh": 2, "ang": 1}, "rotated boxes"),
        ],
    )
    def test_tasks_of_relatives_are_named(self, heads: dict[str, int], task: str) -> None:
        assert f"was trained for the task {task}" in refusal(expected_shapes(named("res_18", heads)))

    def test_a_head_that_nobody_knows_is_named(self) -> None:
        found = refusal(expected_shapes(named("res_18", {"hm": 1, "wh": 2, "colour": 3})))
        assert "entries that no task needs: colour; its heads are hm, wh, colour" in found

    def test_a_trunk_with_something_else_is_no_classifier(self, shapes: Shapes) -> None:
        trunk = {name: shape for name, shape in shapes.items() if name.startswith(("conv1", "bn1", "layer"))}
        found = refusal({**trunk, "neck.weight": (4, 4), "hm.0.weight": (4, 4, 3, 3)})
        assert "no 'deconv_layers'; beside the trunk it has neck, hm" in found
        assert "ImageNet" not in found

    def test_a_backbone(self, shapes: Shapes) -> None:
        trunk = {name: shape for name, shape in shapes.items() if name.startswith(("conv1", "bn1", "layer"))}
        assert "is a plain ResNet" in refusal({**trunk, "fc.weight": (1000, 512), "fc.bias": (1000,)})

    def test_anything_else(self) -> None:
        found = refusal({"encoder.0.weight": (4, 4), "encoder.0.bias": (4,)})
        assert "its 2 entries start with encoder.0.weight, encoder.0.bias" in found
