from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from support.checkpoints import make_network
from support.deform_definition import deform_conv2d_by_loops
from torch import Tensor, nn
from torch.nn import functional as F

from convkit_models.centernet.networks import build, expected_shapes, named, restore

HEADS = {"hm": 80, "wh": 2, "reg": 2}

TOTALS = {
    "res_18": (150, 15_820_372),
    "res_34": (246, 25_928_532),
    "res_50": (348, 34_443_348),
    "res_101": (654, 53_435_476),
    "res_152": (960, 69_079_124),
    "resdcn_18": (177, 14_437_349),
    "resdcn_34": (273, 24_545_509),
    "resdcn_50": (375, 30_681_061),
    "resdcn_101": (681, 49_673_189),
    "resdcn_152": (987, 65_316_837),
    "dla_34": (398, 19_675_892),
    "dlav0_34": (326 - 2, 18_474_476 - 1000 * 512 - 1000),  # without base.fc, which files have and no output needs
    "hourglass": (984, 191_284_008),
}
"""State-dict entries and parameters of the official networks with heads hm 80, wh 2, reg 2.

The heads of a ResNet are 64 wide, others 256.
"""

RESDCN_18 = """
conv1.weight (64, 3, 7, 7); bn1 BN 64
layer1.0.conv1.weight (64, 64, 3, 3); layer1.0.bn1 BN 64; layer1.0.conv2.weight (64, 64, 3, 3); layer1.0.bn2 BN 64
layer1.1.conv1.weight (64, 64, 3, 3); layer1.1.bn1 BN 64; layer1.1.conv2.weight (64, 64, 3, 3); layer1.1.bn2 BN 64
layer2.0.conv1.weight (128, 64, 3, 3); layer2.0.bn1 BN 128; layer2.0.conv2.weight (128, 128, 3, 3); layer2.0.bn2 BN 128
layer2.0.downsample.0.weight (128, 64, 1, 1); layer2.0.downsample.1 BN 128
layer2.1.conv1.weight (128, 128, 3, 3); layer2.1.bn1 BN 128; layer2.1.conv2.weight (128, 128, 3, 3); layer2.1.bn2 BN 128
layer3.0.conv1.weight (256, 128, 3, 3); layer3.0.bn1 BN 256; layer3.0.conv2.weight (256, 256, 3, 3); layer3.0.bn2 BN 256
layer3.0.downsample.0.weight (256, 128, 1, 1); layer3.0.downsample.1 BN 256
layer3.1.conv1.weight (256, 256, 3, 3); layer3.1.bn1 BN 256; layer3.1.conv2.weight (256, 256, 3, 3); layer3.1.bn2 BN 256
layer4.0.conv1.weight (512, 256, 3, 3); layer4.0.bn1 BN 512; layer4.0.conv2.weight (512, 512, 3, 3); layer4.0.bn2 BN 512
layer4.0.downsample.0.weight (512, 256, 1, 1); layer4.0.downsample.1 BN 512
layer4.1.conv1.weight (512, 512, 3, 3); layer4.1.bn1 BN 512; layer4.1.conv2.weight (512, 512, 3, 3); layer4.1.bn2 BN 512
deconv_layers.0.weight (256, 512, 3, 3); deconv_layers.0.bias (256,)
deconv_layers.0.conv_offset_mask.weight (27, 512, 3, 3); deconv_layers.0.conv_offset_mask.bias (27,)
deconv_layers.1 BN 256; deconv_layers.3.weight (256, 256, 4, 4); deconv_layers.4 BN 256
deconv_layers.6.weight (128, 256, 3, 3); deconv_layers.6.bias (128,)
deconv_layers.6.conv_offset_mask.weight (27, 256, 3, 3); deconv_layers.6.conv_offset_mask.bias (27,)
deconv_layers.7 BN 128; deconv_layers.9.weight (128, 128, 4, 4); deconv_layers.10 BN 128
deconv_layers.12.weight (64, 128, 3, 3); deconv_layers.12.bias (64,)
deconv_layers.12.conv_offset_mask.weight (27, 128, 3, 3); deconv_layers.12.conv_offset_mask.bias (27,)
deconv_layers.13 BN 64; deconv_layers.15.weight (64, 64, 4, 4); deconv_layers.16 BN 64
hm.0.weight (64, 64, 3, 3); hm.0.bias (64,); hm.2.weight (80, 64, 1, 1); hm.2.bias (80,)
wh.0.weight (64, 64, 3, 3); wh.0.bias (64,); wh.2.weight (2, 64, 1, 1); wh.2.bias (2,)
reg.0.weight (64, 64, 3, 3); reg.0.bias (64,); reg.2.weight (2, 64, 1, 1); reg.2.bias (2,)
"""
"""The entries of the official checkpoint ctdet_coco_resdcn18, in their order."""


def official_entries(text: str) -> dict[str, tuple[int, ...]]:
    entries: dict[str, tuple[int, ...]] = {}
    for item in re.split(r"[;\n]", text.strip()):
        name, _, shape = item.strip().partition(" ")
        if shape.startswith("BN"):
            width = int(shape.split()[1])
            entries |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
            entries[f"{name}.num_batches_tracked"] = ()
        else:
            entries[name] = tuple(int(number) for number in re.findall(r"\d+", shape))
    return entries


def test_entries_of_resdcn_18_in_order() -> None:
    assert list(expected_shapes(named("resdcn_18", HEADS)).items()) == list(official_entries(RESDCN_18).items())


@pytest.mark.parametrize("architecture", TOTALS)
def test_totals_of_the_official_networks(architecture: str) -> None:
    with torch.device("meta"):
        network = build(named(architecture, HEADS, head_conv=64 if architecture.startswith("res") else 256))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (len(network.state_dict()), parameters) == TOTALS[architecture]


def test_heads_without_a_hidden_layer_are_a_single_convolution() -> None:
    shapes = expected_shapes(named("res_18", {"hm": 5, "wh": 2}, head_conv=0))
    assert {name: shape for name, shape in shapes.items() if name.startswith(("hm", "wh"))} == {
        "hm.weight": (5, 256, 1, 1),
        "hm.bias": (5,),
        "wh.weight": (2, 256, 1, 1),
        "wh.bias": (2,),
    }


@pytest.mark.parametrize(
    ("architecture", "width", "head_conv"),
    [("res_18", 0.05, 8), ("res_50", 0.03, 0), ("resdcn_18", 0.05, 8), ("resdcn_50", 0.03, 4)],
)
def test_output_against_the_definition(architecture: str, width: float, head_conv: int) -> None:
    network = make_network(architecture, {"hm": 3, "wh": 2, "reg": 2}, width=width, head_conv=head_conv).double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (heads,) = network(images)
        expected = by_definition(network.state_dict(), images, dcn=architecture.startswith("resdcn"))
    assert list(heads) == ["hm", "wh", "reg"]
    for name, value in heads.items():
        assert value.shape == (2, {"hm": 3, "wh": 2, "reg": 2}[name], 16, 24)
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)


def by_definition(state: Mapping[str, Tensor], images: Tensor, *, dcn: bool) -> dict[str, Tensor]:
    """Compute the network from its weights, layer by layer as it is specified."""

    def norm(x: Tensor, name: str) -> Tensor:
        w, b, mean, var = (
            state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * w + b

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        convs = 3 if f"{name}.conv3.weight" in state else 2
        y = x
        for i in range(1, convs + 1):
            at_this = stride if i == (2 if convs == 3 else 1) else 1
            y = norm(conv(y, f"{name}.conv{i}", at_this), f"{name}.bn{i}")
            y = y.relu() if i < convs else y
        if f"{name}.downsample.0.weight" in state:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (x + y).relu()

    def deform(x: Tensor, name: str) -> Tensor:
        raw = conv(x, f"{name}.conv_offset_mask").numpy()
        offset, mask = np.concatenate([raw[:, :9], raw[:, 9:18]], axis=1), 1 / (1 + np.exp(-raw[:, 18:]))
        weight, bias = state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy()
        return torch.from_numpy(
            deform_conv2d_by_loops(x.numpy(), weight, offset, bias, mask, (1, 1), (1, 1), (1, 1), 1)
        )

    x = F.max_pool2d(norm(conv(images, "conv1", 2), "bn1").relu(), 3, 2, 1)
    for layer in range(1, 5):
        index = 0
        while f"layer{layer}.{index}.conv1.weight" in state:
            x = block(x, f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1)
            index += 1
    for step in range(3):
        at = step * (6 if dcn else 3)
        if dcn:
            x = norm(deform(x, f"deconv_layers.{at}"), f"deconv_layers.{at + 1}").relu()
            at += 3
        x = F.conv_transpose2d(x, state[f"deconv_layers.{at}.weight"], stride=2, padding=1)
        x = norm(x, f"deconv_layers.{at + 1}").relu()
    heads = {}
    for name in ("hm", "wh", "reg"):
        hidden = f"{name}.0.weight" in state
        heads[name] = conv(conv(x, f"{name}.0").relu(), f"{name}.2") if hidden else conv(x, name)
    return heads


class TestInitialisation:
    def test_heat_map_heads_start_at_a_tenth(self) -> None:
        network = build(named("resdcn_18", HEADS, width=0.1))
        bias = network.get_submodule("hm.2").bias
        torch.testing.assert_close(bias.sigmoid(), torch.full((80,), 0.1007), atol=1e-4, rtol=0)

    @pytest.mark.parametrize(("family", "first_is_small"), [("res_18", False), ("resdcn_18", True)])
    def test_other_heads_start_near_zero(self, family: str, first_is_small: bool) -> None:
        torch.manual_seed(0)
        network = build(named(family, HEADS, width=0.25, head_conv=64))
        first, last = network.get_submodule("wh.0"), network.get_submodule("wh.2")
        assert last.weight.std().item() == pytest.approx(0.001, rel=0.25)
        assert not last.bias.any()
        assert (first.weight.std().item() < 0.002) is first_is_small

    def test_offsets_start_at_zero(self) -> None:
        network = build(named("resdcn_18", HEADS, width=0.1))
        for index in (0, 6, 12):
            predictor = network.get_submodule(f"deconv_layers.{index}.conv_offset_mask")
            assert not any(parameter.any() for parameter in predictor.parameters())

    def test_transposed_convolutions_of_resdcn_get_the_bilinear_kernel_in_one_plane(self) -> None:
        network = build(named("resdcn_18", HEADS, width=0.1))
        weight = network.get_submodule("deconv_layers.3").weight.detach()
        ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
        torch.testing.assert_close(weight[:, 0], torch.outer(ramp, ramp).expand(len(weight), 4, 4))
        assert weight[:, 1:].std() > 0

    def test_a_fresh_network_trains(self) -> None:
        torch.manual_seed(0)
        network = build(named("resdcn_18", {"hm": 2, "wh": 2, "reg": 2}, width=0.06, head_conv=8))
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
        images, target = torch.randn(2, 3, 64, 64), torch.rand(2, 2, 16, 16)
        losses = []
        for _ in range(12):
            loss = F.mse_loss(network(images)[0]["hm"].sigmoid(), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.9 * losses[0]
        moved = network.get_submodule("deconv_layers.0.conv_offset_mask").weight
        assert moved.abs().max() > 0


class TestRestore:
    def test_gives_the_weights_and_eval_mode(self) -> None:
        original = make_network("resdcn_18", width=0.05)
        layout = named("resdcn_18", {"hm": 3, "wh": 2, "reg": 2}, width=0.05, head_conv=16)
        restored = restore(layout, original.state_dict())
        assert not restored.training
        assert all(parameter.device.type == "cpu" for parameter in restored.parameters())
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            for name, value in restored(images)[0].items():
                torch.testing.assert_close(value, original(images)[0][name], rtol=0, atol=0)

    def test_is_strict(self) -> None:
        layout = named("res_18", {"hm": 3, "wh": 2}, width=0.05)
        state = build(layout).state_dict()
        del state["bn1.weight"]
        with pytest.raises(RuntimeError, match="Missing key"):
            restore(layout, state)

    def test_trains_on(self) -> None:
        """People fine-tune: a restored network has parameters that take gradients."""
        layout = named("res_18", {"hm": 3, "wh": 2}, width=0.05)
        network = restore(layout, build(layout).state_dict())
        assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in network.parameters())
