"""The drop-in layer: names, initial values and arithmetic of the official one."""

from __future__ import annotations

import copy

import pytest
import torch
from support.deform_definition import deform_conv2d_by_loops
from torch import nn

from convkit_plugins.dcnv2 import DCN


def randomised(layer: DCN, seed: int = 0) -> DCN:
    """Give every parameter a value, offsets of about a pixel among them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return layer


def test_parameters_have_the_official_names_and_shapes() -> None:
    state = DCN(512, 256, kernel_size=3, stride=1, padding=1, dilation=1, deformable_groups=1).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "weight": (256, 512, 3, 3),
        "bias": (256,),
        "conv_offset_mask.weight": (27, 512, 3, 3),
        "conv_offset_mask.bias": (27,),
    }
    grouped = DCN(8, 4, (3, 5), 1, 1, 1, 4)
    assert grouped.conv_offset_mask.out_channels == 3 * 4 * 3 * 5
    assert grouped.conv_offset_mask.kernel_size == (3, 5)


def test_initial_values() -> None:
    torch.manual_seed(0)
    layer = DCN(64, 32, 3, 1, 1)
    bound = (64 * 9) ** -0.5
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)  # that of a uniform distribution
    assert not layer.bias.any()
    assert not layer.conv_offset_mask.weight.any()
    assert not layer.conv_offset_mask.bias.any()


def test_starts_as_half_an_ordinary_convolution() -> None:
    layer = DCN(3, 5, 3, 2, 1).double()
    x = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight, None, 2, 1) / 2)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [(3, 1, 1, 1, 1), (3, 2, 1, 1, 2), ((2, 3), (2, 1), (1, 0), 1, 4), (3, 1, 2, 2, 1)],
)
def test_equals_the_official_composition(
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int,
    groups: int,
) -> None:
    """The official forward cuts the channels in three, joins the first two again and takes the rest as mask."""
    layer = randomised(DCN(4, 3, kernel, stride, padding, dilation, groups)).double()
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    first, second, mask = torch.chunk(layer.conv_offset_mask(x), 3, dim=1)
    offset = torch.cat((first, second), dim=1)
    arrays = (t.detach().numpy() for t in (x, layer.weight, offset, layer.bias, torch.sigmoid(mask)))
    expected = deform_conv2d_by_loops(*arrays, layer.stride, layer.padding, layer.dilation, groups)
    torch.testing.assert_close(layer(x).detach(), torch.from_numpy(expected), rtol=0, atol=1e-12)


def _train(student: DCN, x: torch.Tensor, target: torch.Tensor) -> float:
    """Return the loss after 100 steps."""
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(student(x), target)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_learning_the_offsets_pays() -> None:
    """A student of a layer with displaced taps gets further than one whose taps must stay in place."""
    torch.manual_seed(0)
    x = nn.functional.avg_pool2d(torch.randn(8, 2, 14, 14), 5, 1) * 5
    target = randomised(DCN(2, 3, 3, 1, 1))(x).detach()
    free, bound = DCN(2, 3, 3, 1, 1), DCN(2, 3, 3, 1, 1)
    bound.conv_offset_mask.requires_grad_(False)
    assert _train(free, x, target) < _train(bound, x, target) / 2
    assert free.conv_offset_mask.weight.any()
    assert not bound.conv_offset_mask.weight.any()


def test_copies_compute_the_same() -> None:
    layer = randomised(DCN(2, 3, 3, 1, 1))
    other = DCN(2, 3, 3, 1, 1)
    other.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(layer(x), other(x))
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="divide 4 channels into 3 deformable groups"):
        DCN(4, 4, 3, 1, 1, deformable_groups=3)


def test_repr_shows_the_settings() -> None:
    assert "8, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)" in repr(DCN(8, 4, 3, 2, 1))
