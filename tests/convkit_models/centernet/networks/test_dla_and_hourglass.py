"""The networks dla_34, dlav0_34 and hourglass: their entries, and their outputs by the definition, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from support.checkpoints import make_network, make_network_of
from support.deform_definition import deform_conv2d_by_loops
from torch import Tensor
from torch.nn import functional as F

from convkit_models.centernet.networks import Head, HourglassLayout, expected_shapes, named

HEADS = {"hm": 80, "wh": 2, "reg": 2}
State = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

TREES = {
    # level: input and output width, and the input widths of the root of each lowest tree
    2: (32, 64, {"": 128}),
    3: (64, 128, {"tree1.": 256, "tree2.": 448}),
    4: (128, 256, {"tree1.": 512, "tree2.": 896}),
    5: (256, 512, {"": 1280}),
}
UPSAMPLING = {
    "dla_up.ida_0.": (256, [512]),
    "dla_up.ida_1.": (128, [256, 256]),
    "dla_up.ida_2.": (64, [128, 128, 128]),
}


def norm_shapes(name: str, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def conv_shapes(name: str, out: int, width: int, kernel: int, *, bias: bool = False) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (out, width, kernel, kernel)}
    return shapes | ({f"{name}.bias": (out,)} if bias else {})


def trunk_shapes() -> Shapes:
    found = conv_shapes("base.base_layer.0", 16, 3, 7) | norm_shapes("base.base_layer.1", 16)
    found |= conv_shapes("base.level0.0", 16, 16, 3) | norm_shapes("base.level0.1", 16)
    found |= conv_shapes("base.level1.0", 32, 16, 3) | norm_shapes("base.level1.1", 32)
    for level, (width, out, roots) in TREES.items():
        for tree, root in roots.items():
            at, entering = f"base.level{level}.{tree}", out if tree == "tree2." else width
            for block, first in (("tree1", entering), ("tree2", out)):
                found |= conv_shapes(f"{at}{block}.conv1", out, first, 3) | norm_shapes(f"{at}{block}.bn1", out)
                found |= conv_shapes(f"{at}{block}.conv2", out, out, 3) | norm_shapes(f"{at}{block}.bn2", out)
            found |= conv_shapes(f"{at}root.conv", out, root, 1) | norm_shapes(f"{at}root.bn", out)
            if entering != out:
                found |= conv_shapes(f"{at}project.0", out, width, 1) | norm_shapes(f"{at}project.1", out)
        # computed by the original, but nothing depends on those of levels 3 and 4
        found |= conv_shapes(f"base.level{level}.project.0", out, width, 1)
        found |= norm_shapes(f"base.level{level}.project.1", out)
    return found


def head_shapes() -> Shapes:
    found: Shapes = {}
    for name, channels in HEADS.items():
        found |= conv_shapes(f"{name}.0", 256, 64, 3, bias=True) | conv_shapes(f"{name}.2", channels, 256, 1, bias=True)
    return found


def deform_shapes(name: str, out: int, width: int) -> Shapes:
    found = norm_shapes(f"{name}.actf.0", out) | conv_shapes(f"{name}.conv", out, width, 3, bias=True)
    return found | conv_shapes(f"{name}.conv.conv_offset_mask", 27, width, 3, bias=True)


def test_entries_of_dla_34() -> None:
    expected = trunk_shapes() | head_shapes()
    for prefix, (out, widths) in {**UPSAMPLING, "ida_up.": (64, [128, 256])}.items():
        for index, width in enumerate(widths, 1):
            kernel = 8 if (prefix, index) == ("ida_up.", 2) else 4
            expected |= deform_shapes(f"{prefix}proj_{index}", out, width)
            expected |= deform_shapes(f"{prefix}node_{index}", out, out)
            expected[f"{prefix}up_{index}.weight"] = (out, 1, kernel, kernel)
    assert expected_shapes(named("dla_34", HEADS, head_conv=256)) == expected


def test_entries_of_dlav0_34() -> None:
    expected = trunk_shapes() | head_shapes()
    for prefix, (out, widths) in UPSAMPLING.items():
        for index, width in enumerate(widths, 1):
            expected |= conv_shapes(f"{prefix}proj_{index}.0", out, width, 1)
            expected |= norm_shapes(f"{prefix}proj_{index}.1", out)
            expected |= conv_shapes(f"{prefix}node_{index}.0", out, 2 * out, 3)
            expected |= norm_shapes(f"{prefix}node_{index}.1", out)
            expected[f"{prefix}up_{index}.weight"] = (out, 1, 4, 4)
    assert expected_shapes(named("dlav0_34", HEADS, head_conv=256)) == expected


def test_entries_of_hourglass_outside_of_the_recursion() -> None:
    expected = conv_shapes("pre.0.conv", 128, 3, 7) | norm_shapes("pre.0.bn", 128)
    expected |= conv_shapes("pre.1.conv1", 256, 128, 3) | norm_shapes("pre.1.bn1", 256)
    expected |= conv_shapes("pre.1.conv2", 256, 256, 3) | norm_shapes("pre.1.bn2", 256)
    expected |= conv_shapes("pre.1.skip.0", 256, 128, 1) | norm_shapes("pre.1.skip.1", 256)
    for stack in (0, 1):
        expected |= conv_shapes(f"cnvs.{stack}.conv", 256, 256, 3) | norm_shapes(f"cnvs.{stack}.bn", 256)
        for name, channels in HEADS.items():
            expected |= conv_shapes(f"{name}.{stack}.0.conv", 256, 256, 3, bias=True)
            expected |= conv_shapes(f"{name}.{stack}.1", channels, 256, 1, bias=True)
    for part in ("conv1", "conv2"):
        expected |= conv_shapes(f"inters.0.{part}", 256, 256, 3) | norm_shapes(f"inters.0.bn{part[-1]}", 256)
    for part in ("inters_", "cnvs_"):
        expected |= conv_shapes(f"{part}.0.0", 256, 256, 1) | norm_shapes(f"{part}.0.1", 256)
    found = expected_shapes(named("hourglass", HEADS, head_conv=256))
    assert {name: shape for name, shape in found.items() if not name.startswith("kps.")} == expected


def test_the_recursion_of_hourglass() -> None:
    """Widths and numbers of blocks, level by level."""
    found = expected_shapes(named("hourglass", HEADS, head_conv=256))
    dims, blocks = (256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4)
    for level in range(5):
        at = "kps.1" + ".low2" * level
        here, below = dims[level], dims[level + 1]
        assert found[f"{at}.up1.1.conv1.weight"] == (here, here, 3, 3)
        assert found[f"{at}.low1.0.conv1.weight"] == (below, here, 3, 3)
        assert found[f"{at}.low1.0.skip.0.weight"] == (below, here, 1, 1)  # its stride is 2, whatever the widths
        assert found[f"{at}.low3.1.conv1.weight"] == (here, below, 3, 3)
        assert (f"{at}.low3.1.skip.0.weight" in found) is (here != below)
        for way in ("up1", "low1", "low3"):
            assert len({name[len(at) :].split(".")[2] for name in found if name.startswith(f"{at}.{way}.")}) == 2
    bottom = "kps.1" + ".low2" * 5
    indices = {m[1] for name in found if (m := re.match(re.escape(bottom) + r"\.(\d+)\.", name))}
    assert len(indices) == blocks[-1]
    assert found[f"{bottom}.3.conv2.weight"] == (512, 512, 3, 3)


def norm(state: State, x: Tensor, name: str) -> Tensor:
    w, b, mean, var = (
        state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (var + 1e-5).sqrt() * w + b


def conv(state: State, x: Tensor, name: str, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)


def deform(state: State, x: Tensor, name: str) -> Tensor:
    raw = conv(state, x, f"{name}.conv_offset_mask").numpy()
    offset, mask = np.concatenate([raw[:, :9], raw[:, 9:18]], axis=1), 1 / (1 + np.exp(-raw[:, 18:]))
    weight, bias = state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy()
    return torch.from_numpy(deform_conv2d_by_loops(x.numpy(), weight, offset, bias, mask, (1, 1), (1, 1), (1, 1), 1))


def dla_by_definition(state: State, images: Tensor, *, dcn: bool) -> Tensor:
    """Return the features of the heads: the trunk of six levels, then the upsampling in three passes."""

    def simple(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return norm(state, conv(state, x, f"{name}.0", stride), f"{name}.1").relu()

    def block(x: Tensor, name: str, stride: int, residual: Tensor) -> Tensor:
        y = norm(state, conv(state, x, f"{name}.conv1", stride), f"{name}.bn1").relu()
        return (norm(state, conv(state, y, f"{name}.conv2"), f"{name}.bn2") + residual).relu()

    def lowest(x: Tensor, name: str, stride: int, children: list[Tensor]) -> Tensor:
        residual = F.max_pool2d(x, stride, stride) if stride > 1 else x
        if f"{name}.project.0.weight" in state:
            residual = norm(state, conv(state, residual, f"{name}.project.0"), f"{name}.project.1")
        first = block(x, f"{name}.tree1", stride, residual)
        second = block(first, f"{name}.tree2", 1, first)
        joined = torch.cat([second, first, *children], 1)
        return norm(state, conv(state, joined, f"{name}.root.conv"), f"{name}.root.bn").relu()

    x = simple(simple(images, "base.base_layer"), "base.level0")
    x = simple(x, "base.level1", 2)
    maps = [lowest(x, "base.level2", 2, [])]
    for level in (3, 4):
        bottom = F.max_pool2d(maps[-1], 2, 2)
        first = lowest(maps[-1], f"base.level{level}.tree1", 2, [])
        maps.append(lowest(first, f"base.level{level}.tree2", 1, [bottom, first]))
    maps.append(lowest(maps[-1], "base.level5", 2, [F.max_pool2d(maps[-1], 2, 2)]))

    def unit(x: Tensor, name: str) -> Tensor:
        return norm(state, deform(state, x, f"{name}.conv"), f"{name}.actf.0").relu()

    def up(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        factor = weight.shape[-1] // 2
        return F.conv_transpose2d(x, weight, stride=factor, padding=factor // 2, groups=len(weight))

    def aggregate(maps: list[Tensor], start: int, prefix: str) -> None:
        """Change the maps behind ``start`` in place."""
        for index in range(1, len(maps) - start):
            x = maps[start + index]
            if dcn:
                x = up(unit(x, f"{prefix}.proj_{index}"), f"{prefix}.up_{index}")
                maps[start + index] = unit(x + maps[start + index - 1], f"{prefix}.node_{index}")
            else:
                x = up(simple(x, f"{prefix}.proj_{index}"), f"{prefix}.up_{index}")
                maps[start + index] = simple(torch.cat([maps[start + index - 1], x], 1), f"{prefix}.node_{index}")

    results = [maps[3]]
    for number, start in enumerate((2, 1, 0)):
        aggregate(maps, start, f"dla_up.ida_{number}")
        results.insert(0, maps[3])
    if not dcn:
        return results[0]
    final = results[:3]
    aggregate(final, 0, "ida_up")
    return final[2]


@pytest.mark.parametrize("architecture", ["dla_34", "dlav0_34"])
def test_dla_against_the_definition(architecture: str) -> None:
    network = make_network(architecture, width=0.05, head_conv=4).double()
    images = torch.randn(1, 3, 32, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state = network.state_dict()
    with torch.no_grad():
        (heads,) = network(images)
        features = dla_by_definition(state, images, dcn=architecture == "dla_34")
        for name, value in heads.items():
            expected = conv(state, conv(state, features, f"{name}.0").relu(), f"{name}.2")
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def hourglass_by_definition(state: State, images: Tensor, stacks: int) -> list[dict[str, Tensor]]:
    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return norm(state, conv(state, x, f"{name}.conv", stride), f"{name}.bn").relu()

    def residual(x: Tensor, name: str, stride: int = 1) -> Tensor:
        y = norm(state, conv(state, x, f"{name}.conv1", stride), f"{name}.bn1").relu()
        y = norm(state, conv(state, y, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.skip.0.weight" in state:
            x = norm(state, conv(state, x, f"{name}.skip.0", stride), f"{name}.skip.1")
        return (x + y).relu()

    def sequence(x: Tensor, name: str, stride: int = 1) -> Tensor:
        index = 0
        while f"{name}.{index}.conv1.weight" in state:
            x = residual(x, f"{name}.{index}", stride if index == 0 else 1)
            index += 1
        return x

    def level(x: Tensor, name: str) -> Tensor:
        if f"{name}.0.conv1.weight" in state:
            return sequence(x, name)
        y = sequence(level(sequence(x, f"{name}.low1", 2), f"{name}.low2"), f"{name}.low3")
        return sequence(x, f"{name}.up1") + y.repeat_interleave(2, 2).repeat_interleave(2, 3)

    x = residual(unit(images, "pre.0", 2), "pre.1", 2)
    results = []
    for stack in range(stacks):
        features = unit(level(x, f"kps.{stack}"), f"cnvs.{stack}")
        results.append(
            {
                name: conv(state, conv(state, features, f"{name}.{stack}.0.conv").relu(), f"{name}.{stack}.1")
                for name in ("hm", "wh", "reg")
            }
        )
        if stack + 1 < stacks:
            x = norm(state, conv(state, x, f"inters_.{stack}.0"), f"inters_.{stack}.1")
            x = x + norm(state, conv(state, features, f"cnvs_.{stack}.0"), f"cnvs_.{stack}.1")
            x = residual(x.relu(), f"inters.{stack}")
    return results


HOURGLASS = HourglassLayout(2, 3, (4, 4, 6), (2, 1, 3), 5, (Head("hm", 3, 4), Head("wh", 2, 4), Head("reg", 2, 4)))
"""A hourglass of two levels, which takes multiples of 16."""


def test_hourglass_against_the_definition() -> None:
    network = make_network_of(HOURGLASS).double()
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (heads,) = network(images)
        expected = hourglass_by_definition(network.state_dict(), images, 2)
        both = network.train()(images)
    assert len(both) == len(expected) == 2  # training needs the first stack, too
    for name, value in heads.items():
        torch.testing.assert_close(value, expected[1][name], rtol=1e-9, atol=1e-9)
