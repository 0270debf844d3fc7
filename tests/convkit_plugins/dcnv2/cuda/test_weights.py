"""Packed weights against loops over what the kernels read, and the memory of packed copies."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.deform_host import launch_on_host
from support.every_case import crossed
from torch import Tensor

from convkit_plugins.dcnv2.cuda import Layer, Packing, _weights, pack_for_mma, pack_for_plain, pack_for_wgmma

SHAPES = [(64, 64, 3, 3), (40, 72, 2, 3), (3, 8, 1, 1), (130, 136, 1, 2)]
SIXTEEN = [torch.float16, torch.bfloat16]


def numbered(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A weight of numbers that the dtype holds exactly, none zero; neighbours differ."""
    count = math.prod(shape)
    return (torch.arange(count) % 251 + 1).reshape(shape).to(dtype)


def at(weight: Tensor, filters: int, channel: int, tap: int) -> float:
    """A weight, or zero where there is none."""
    inside = filters < weight.shape[0] and channel < weight.shape[1]
    return weight[filters, channel].flatten()[tap].item() if inside else 0.0


def filter_of(column: int) -> int:
    """The output channel in a column of a product.

    Both matrix instructions give thread q of four the columns 2 q and 2 q + 1 of every 8, and the kernels write the
    values of four such pairs, from blocks of 8 columns that follow each other, to neighbouring channels.
    """
    block, j, q, e = column // 32, column % 32 // 8, column % 8 // 2, column % 2
    return block * 32 + q * 8 + 2 * j + e


@crossed(shape=SHAPES, columns=[32, 64, 128, 256], dtype=SIXTEEN)
def test_tiles_of_wgmma_hold_what_the_kernel_multiplies(
    shape: tuple[int, int, int, int], columns: int, dtype: torch.dtype
) -> None:
    """Row n of a tile has the weights of column n; its 64 steps of the sum are the channels in their order.

    The other operand lies in shared memory, too, where a row has the channels of a pixel as they follow each other.
    """
    weight = numbered(shape, dtype)
    packed = pack_for_wgmma(weight, columns)
    taps, inputs, outputs = shape[2] * shape[3], -(-shape[1] // 64), -(-shape[0] // columns)
    assert packed.dtype == dtype
    assert packed.shape == (outputs * inputs * taps * columns * 64,)
    values = packed.tolist()
    for output, block, tap, n in itertools.product(range(outputs), range(inputs), range(taps), range(columns)):
        row = (((output * inputs + block) * taps + tap) * columns + n) * 64
        for step in range(0, 64, 3):
            piece = step // 8 ^ n % 8  # the swizzle of 128 bytes
            found = values[row + piece * 8 + step % 8]
            expected = at(weight, output * columns + filter_of(n), block * 64 + step, tap)
            assert found == expected, (output, block, tap, n, step)


@crossed(shape=SHAPES, columns=[32, 64, 128], dtype=[*SIXTEEN, torch.float32])
def test_tiles_of_mma_hold_what_the_kernel_multiplies(
    shape: tuple[int, int, int, int], columns: int, dtype: torch.dtype
) -> None:
    """`tile[(n * 2 + half) * 32 + lane]`: 16 bytes of column lane / 4 of block n, from 64 half + 16 (lane % 4) on."""
    weight = numbered(shape, dtype)
    packed = pack_for_mma(weight, columns)
    piece = 16 // weight.element_size()
    chunk = 8 * piece
    taps, inputs, outputs = shape[2] * shape[3], -(-shape[1] // chunk), -(-shape[0] // columns)
    assert packed.dtype == dtype
    assert packed.shape == (outputs * inputs * taps * columns * chunk,)
    values = packed.tolist()
    places = itertools.product(range(outputs), range(inputs), range(taps), range(columns // 8), range(2), range(32))
    for output, block, tap, n, half, lane in places:
        start = ((((output * inputs + block) * taps + tap) * columns // 8 + n) * 2 + half) * 32 + lane
        column, first = n * 8 + lane // 4, block * chunk + half * chunk // 2 + lane % 4 * piece
        for i in range(0, piece, 2):
            expected = at(weight, output * columns + filter_of(column), first + i, tap)
            assert values[start * piece + i] == expected, (output, block, tap, n, half, lane, i)


def test_float32_is_rounded_to_ten_bits_of_the_fraction() -> None:
    weight = (
        torch.randn(32, 32, 1, 1, generator=torch.Generator().manual_seed(0))
        * 2.0 ** torch.arange(-16, 16)[:, None, None]
    )
    weight[0, :4, 0, 0] = torch.tensor([math.inf, -math.inf, 1 + 2**-11, 1 + 2**-11 - 2**-23])
    ours = np.sort(pack_for_mma(weight, 32).numpy())
    fraction, exponent = np.frexp(weight.double().numpy().ravel())
    away_from_zero = np.copysign(np.floor(np.abs(fraction) * 2**11 + 0.5), fraction)
    np.testing.assert_array_equal(ours, np.sort(np.ldexp(away_from_zero, exponent - 11)))
    assert 1 + 2**-10 in ours
    assert 1 in ours


def test_float32_that_is_not_a_number_stays_none() -> None:
    """Also with all bits set, which is how a GPU writes it."""
    weight = torch.full((32, 32, 1, 1), 0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    weight[0] = -weight[0]
    assert pack_for_mma(weight, 32).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, *SIXTEEN])
@pytest.mark.parametrize(("groups", "columns"), [(1, 64), (2, 32), (4, 64)])
def test_tiles_of_the_plain_kernel_hold_every_weight_once(dtype: torch.dtype, groups: int, columns: int) -> None:
    """[tile][group][tap][channel of the group, padded to 16][filter of the tile]."""
    weight = numbered((70, 24, 3, 2), dtype)
    packed = pack_for_plain(weight, groups, columns)
    assert packed.dtype == dtype
    members, tiles = 24 // groups, -(-70 // columns)
    padded = -(-members // 16) * 16
    values = packed.view(tiles, groups, 6, padded, columns)
    places = itertools.product(range(tiles), range(groups), range(6), range(padded), range(columns))
    for tile, group, tap, channel, column in itertools.islice(places, 0, None, 7):
        expected = 0.0
        if channel < members:
            expected = at(weight, tile * columns + column, group * members + channel, tap)
        assert values[tile, group, tap, channel, column].item() == expected
    assert packed.count_nonzero() == weight.numel()


PACKS: list[Callable[[Tensor], Tensor]] = [
    lambda weight: pack_for_wgmma(weight, 64),
    lambda weight: pack_for_mma(weight, 64),
    lambda weight: pack_for_plain(weight, 2, 32),
]


@pytest.mark.parametrize("pack", PACKS, ids=["wgmma", "mma", "plain"])
def test_weights_may_lie_anyhow(pack: Callable[[Tensor], Tensor]) -> None:
    weight = numbered((40, 24, 3, 2), torch.float16)
    expected = pack(weight)
    for other in (
        weight.to(memory_format=torch.channels_last),
        weight.mT.contiguous().mT,
        torch.stack((weight,) * 2, -1)[..., 0],
    ):
        assert not other.is_contiguous()
        assert torch.equal(pack(other), expected)


class Doubled:
    """Packs, and counts how often."""

    calls = 0

    def __call__(self, weight: Tensor) -> Tensor:
        self.calls += 1
        assert not weight.requires_grad
        return 2 * weight


def test_weights_are_packed_once_for_each_way() -> None:
    packed, pack, weight = _weights.PackedWeights(), Doubled(), torch.nn.Parameter(torch.ones(3))
    first = packed.get(weight, "a", pack)
    assert packed.get(weight, "a", pack) is first
    assert pack.calls == 1
    assert packed.get(weight, "b", pack) is not first
    assert packed.get(torch.nn.Parameter(torch.ones(3)), "a", pack) is not first
    assert pack.calls == 3
    assert not first.requires_grad


def test_weights_that_change_are_packed_again() -> None:
    packed, pack, weight = _weights.PackedWeights(), Doubled(), torch.nn.Parameter(torch.ones(3))
    packed.get(weight, "a", pack)
    packed.get(weight, "b", pack)
    with torch.no_grad():
        weight.add_(1)
    assert packed.get(weight, "a", pack).tolist() == [4, 4, 4]
    assert packed.get(weight, "b", pack).tolist() == [4, 4, 4]
    optimizer = torch.optim.SGD([weight], lr=1)
    weight.sum().backward()
    optimizer.step()
    assert packed.get(weight, "a", pack).tolist() == [2, 2, 2]
    weight.data = torch.full((3,), 7.0)
    assert packed.get(weight, "a", pack).tolist() == [14, 14, 14]
    assert pack.calls == 6


def test_a_change_reaches_those_who_hold_the_copy() -> None:
    """A CUDA graph does: it has the address."""
    packed, pack, weight = _weights.PackedWeights(), Doubled(), torch.nn.Parameter(torch.ones(3))
    held = packed.get(weight, "a", pack)
    with torch.no_grad():
        weight.add_(1)
    assert packed.get(weight, "a", pack).data_ptr() == held.data_ptr()
    assert held.tolist() == [4, 4, 4]
    weight.data = torch.ones(4)
    assert packed.get(weight, "a", pack).tolist() == [2, 2, 2, 2]
    assert held.tolist() == [4, 4, 4]


def test_copies_of_a_capture_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, pack, weight = _weights.PackedWeights(), Doubled(), torch.ones(3)
    monkeypatch.setattr(_weights, "_is_capturing", lambda tensor: True)
    in_graph = packed.get(weight, "a", pack)
    monkeypatch.undo()
    assert packed.get(weight, "a", pack) is not in_graph
    assert pack.calls == 2
    monkeypatch.setattr(_weights, "_is_capturing", lambda tensor: True)
    packed.get(weight, "a", pack)
    assert pack.calls == 2


def test_weights_that_are_gone_leave_nothing() -> None:
    packed, weight = _weights.PackedWeights(), torch.ones(3)
    copy = weakref.ref(packed.get(weight, "a", Doubled()))
    assert copy() is not None
    del weight
    gc.collect()
    assert copy() is None


def test_weights_of_inference_mode_are_packed_once() -> None:
    packed, pack = _weights.PackedWeights(), Doubled()
    with torch.inference_mode():
        weight = torch.ones(3)
        assert packed.get(weight, "a", pack).tolist() == [2, 2, 2]
    assert packed.get(weight, "a", pack).tolist() == [2, 2, 2]
    assert pack.calls == 1


@crossed(
    shape=SHAPES,
    order=[(False, 32), (False, 64), (True, 32), (True, 64), (True, 128)],
    dtype=[torch.float32, *SIXTEEN],
    groups=[1, 2],
)
def test_the_kernel_packs_as_pytorch_does(
    shape: tuple[int, int, int, int], order: tuple[bool, int], dtype: torch.dtype, groups: int
) -> None:
    mma, columns = order
    weight, name = numbered(shape, dtype), str(dtype).removeprefix("torch.")
    filters, channels, height, width = shape
    layer, packing = Layer(filters, (height, width), groups=groups), Packing(mma, columns)
    expected = pack_for_mma(weight, columns) if mma else pack_for_plain(weight, groups, columns)
    packed = torch.full((packing.written(layer, channels, name) + 3,), torch.nan, dtype=dtype)
    variant = packing.variant(name)
    config = variant.launch_config(total=packing.written(layer, channels, name))
    launch_on_host(variant, config, weight, packed, *packing.scalars(layer, channels, name))
    count = packing.packed(layer, channels, name)
    assert torch.equal(packed[:count], expected)
    assert packed[count].item() == 1
    assert packed[count + 1 :][:filters].tolist() == [0.0] * filters
    assert packed[count + 1 + filters :].isnan().all(), "it wrote beyond its end"
