"""The plain kernel of the operator on a GPU, against its arithmetic in float64."""

from __future__ import annotations

import pytest
import torch
from support.deform_host import view
from torch import Tensor

from convkit.cuda import load
from convkit_plugins.dcnv2.cuda import PLAIN, TILES, Layer, Tile, can_load_four, pack_for_plain, plain_scalars
from convkit_plugins.dcnv2.op import compute

pytestmark = pytest.mark.gpu
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def launch(layer: Layer, x: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, out: Tensor, tile: Tile) -> None:
    """Run the kernel on the output of a convolution that gives offsets and masks."""
    offsets = raw.shape[1] // 3 * 2
    offset, mask = raw[:, :offsets], raw[:, offsets:]
    packed = pack_for_plain(weight, layer.groups, tile.filters)
    four = can_load_four(layer, view(x))
    constants = {name.upper(): value for name, value in tile._asdict().items()}
    variant = PLAIN.variant(T=NAMES[x.dtype], SIGMOID=True, RELU=False, VECTOR=four, **constants)
    launcher = load(variant)
    config = launcher.launch_config(
        batch=x.shape[0], filters=layer.filters, out_height=out.shape[2], out_width=out.shape[3]
    )
    scalars = plain_scalars(layer, *map(view, (x, offset, mask, out)))
    launcher(config, x, offset, mask, packed, bias, out, *scalars)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels-last"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=NAMES.values())
@pytest.mark.parametrize("tile", TILES, ids=lambda tile: "x".join(map(str, tile)))
@pytest.mark.parametrize(
    ("layer", "batch", "channels", "size"),
    [
        (Layer(64, (3, 3), padding=(1, 1)), 2, 64, (40, 32)),
        (Layer(37, (2, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=3), 3, 57, (21, 18)),
        (Layer(140, (1, 1), groups=2), 1, 8, (5, 7)),
    ],
    ids=["usual", "odd", "pointwise"],
)
def test_agrees_with_float64(
    layer: Layer, batch: int, channels: int, size: tuple[int, int], tile: Tile, dtype: torch.dtype, last: bool
) -> None:
    generator = torch.Generator("cuda").manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.float32).to(dtype)

    zipped = zip(size, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    out_size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zipped]
    taps = layer.groups * layer.kernel[0] * layer.kernel[1]
    x, weight, bias = (
        normal(batch, channels, *size),
        normal(layer.filters, channels, *layer.kernel),
        normal(layer.filters),
    )
    raw = normal(batch, 3 * taps, *out_size) * 3
    flat = raw[:, : 2 * taps].reshape(-1).clone()
    for value, every in ((float("nan"), 11), (float("inf"), 13), (-1e30, 17), (0.5, 7), (-1.0, 5)):
        flat[::every] = value
    raw[:, : 2 * taps] = flat.view(batch, 2 * taps, *out_size)
    form = torch.channels_last if last else torch.contiguous_format
    x, raw = x.contiguous(memory_format=form), raw.contiguous(memory_format=form)
    results = []
    for _ in range(2):
        out = torch.full((batch, layer.filters, *out_size), float("nan"), dtype=dtype, device="cuda")
        out = out.contiguous(memory_format=form)
        launch(layer, x, raw, weight, bias, out, tile)
        results.append(out)
    offset, mask = raw[:, : 2 * taps].double(), raw[:, 2 * taps :].double().sigmoid()
    tensors = (x.double(), weight.double(), offset, bias.double(), mask)
    expected = compute(*tensors, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert ((results[0] - expected).norm() / expected.norm()).item() < BOUNDS[dtype]
    assert torch.equal(results[0], results[1])
