"""Make small CenterNet checkpoints in the official format, whose networks are worth comparing.

A network with plain random weights is a bad fixture: offsets that depend strongly on the input make
the deformable layers chaotic, so that two correct float32 kernels differ in the second digit, and
untouched batch statistics let activations explode or vanish. `make_checkpoint` therefore

* takes the batch statistics from one forward pass over image-like noise, and lets each residual
  branch add a quarter of what it would, as trained ones do: that keeps the deep trunks calm,
* lets the deformable layers sample about 2 px away, mostly from the bias of ``conv_offset_mask``:
  what its weights add varies by 0.25 px, or by ``swing``,
* scales the heads to what trained ones give: some peaks, boxes of several cells, offsets within a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convkit_models.centernet.networks import CenterNetwork, Layout, build, named
from convkit_plugins.dcnv2 import DCN

HEAD_TARGETS = {
    "hm": (-3.0, 1.7),
    "wh": (6.0, 2.0),
    "reg": (0.5, 0.27),
    "hps": (0.0, 2.0),
    "hm_hp": (-2.0, 1.7),
    "hp_offset": (0.5, 0.27),
    **{f"hm_{side}": (-3.0, 1.7) for side in "tlbrc"},
    **{f"reg_{side}": (0.5, 0.27) for side in "tlbr"},
    "dep": (-3.0, 0.5),
    "rot": (0.0, 1.0),
    "dim": (2.0, 0.5),
    "tracking": (0.0, 2.0),
    "ltrb": (3.0, 1.0),
}
"""Mean and standard deviation of each raw map, in logits and in cells."""
SWING = 0.25
"""Standard deviation in pixels of what an image changes in the offsets of a deformable layer."""

Targets = Mapping[str, tuple[float, float]]


def make_checkpoint(
    path: str | Path,
    arch: str = "resdcn_18",
    *,
    classes: int = 3,
    width: float = 0.25,
    head_conv: int = 16,
    heads: Mapping[str, int] | None = None,
    seed: int = 0,
    swing: float = SWING,
    targets: Targets | None = None,
    legacy: bool = False,
    prefix: str = "",
    optimizer: bool = False,
    edit: Callable[[dict[str, Any]], object] | None = None,
) -> Path:
    """Write a checkpoint of a random but well-conditioned network to ``path`` and return the path.

    ``width`` multiplies the trunk and upsampler widths (1.0 is full size), ``heads`` replaces
    ``{"hm": classes, "wh": 2, "reg": 2}``. ``swing`` is how much an image changes the offsets of deformable
    layers, standard deviation in pixels; many such layers in a row multiply the rounding of float16 by it. ``targets``
    replaces entries of `HEAD_TARGETS`. ``legacy`` writes the format before torch 1.6,
    ``prefix`` goes before every key (``"module."``), ``optimizer`` adds an Adam state, and ``edit``
    changes the file's dictionary in place before it is written. The same arguments give the same
    weights; torch's random state is left as it was.
    """
    path = Path(path)
    layout = named(arch, heads or {"hm": classes, "wh": 2, "reg": 2}, head_conv=head_conv, width=width)
    state = make_network_of(layout, seed, swing=swing, targets=targets).state_dict()
    content: dict[str, Any] = {"epoch": 140, "state_dict": {prefix + name: value for name, value in state.items()}}
    if optimizer:
        moments = {i: {"step": 7, "exp_avg": torch.zeros_like(value)} for i, value in enumerate(state.values())}
        groups = [{"lr": 1.25e-4, "betas": (0.9, 0.999), "params": list(moments)}]
        content["optimizer"] = {"state": moments, "param_groups": groups}
    if edit is not None:
        edit(content)
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def save_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; the test is skipped where that optional package is missing."""
    import pytest

    pytest.importorskip("safetensors.torch").save_file(dict(tensors), path, metadata)


def make_network(
    arch: str = "resdcn_18",
    heads: Mapping[str, int] | None = None,
    *,
    width: float = 0.25,
    head_conv: int = 16,
    seed: int = 0,
) -> CenterNetwork:
    """Return the network of `make_checkpoint`, in eval mode."""
    return make_network_of(named(arch, heads or {"hm": 3, "wh": 2, "reg": 2}, head_conv=head_conv, width=width), seed)


def make_network_of(
    layout: Layout, seed: int = 0, *, swing: float = SWING, targets: Targets | None = None
) -> CenterNetwork:
    """Return a network of a layout, conditioned as that of `make_checkpoint`, in eval mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = build(layout)
        for module in network.modules():
            _randomise(module)
        for module in network.modules():
            if last := getattr(module, "bn3", getattr(module, "bn2", None)):
                last.weight.mul_(0.25)
        _condition(network, layout, swing, {**HEAD_TARGETS, **(targets or {})})
    return network.eval()


def image_like(batch: int, height: int, width: int) -> Tensor:
    """Return smooth noise with some grain, zero mean and unit variance: [batch, 3, height, width]."""
    coarse = torch.randn(batch, 3, max(2, height // 16), max(2, width // 16))
    image = nn.functional.interpolate(coarse, (height, width), mode="bicubic") + 0.3 * torch.randn(
        batch, 3, height, width
    )
    return (image - image.mean()) / image.std()


def _randomise(module: nn.Module) -> None:
    if isinstance(module, nn.BatchNorm2d):
        module.weight.uniform_(0.5, 1.5)
        module.bias.normal_(0, 0.1)
        module.momentum = None  # running statistics become those of the one batch that follows
    elif isinstance(module, nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=(module.weight.shape[0] // module.groups * 4) ** -0.5)
    elif isinstance(module, DCN):
        nn.init.kaiming_normal_(module.weight)
        nn.init.normal_(module.bias, std=0.1)


def _condition(network: CenterNetwork, layout: Layout, swing: float, targets: Targets) -> None:
    """Run one batch through the network and scale each deformable layer and head as the batch reaches it."""
    deformable = [module for module in network.modules() if isinstance(module, DCN)]
    handles = [module.register_forward_pre_hook(_scale_offsets(swing)) for module in deformable]
    for head in layout.heads:
        module = network.get_submodule(head.name)
        mean, deviation = targets.get(head.name, (0.0, 1.0))
        for stack in module if isinstance(module, nn.ModuleList) else [module]:
            last = stack[-1] if isinstance(stack, nn.Sequential) else stack
            handles.append(last.register_forward_pre_hook(_scale_head(mean, deviation)))
    network.train()
    kinds = {"pre_images": image_like, "pre_hm": lambda *size: torch.rand(size[0], 1, *size[1:])}
    before = [kinds[name](1, 512, 512) for name in layout.inputs[1:]]
    network(image_like(1, 512, 512), *before)
    for handle in handles:
        handle.remove()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def _scale_offsets(swing: float) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def scale(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, DCN)
        predictor = layer.conv_offset_mask
        assert predictor.bias is not None
        nn.init.normal_(predictor.weight)
        nn.init.zeros_(predictor.bias)
        predictor.weight.mul_(swing / predictor(inputs[0]).std(dim=(0, 2, 3)).clamp_min(1e-6).view(-1, 1, 1, 1))
        nn.init.normal_(predictor.bias, std=2.0)

    return scale


def _scale_head(mean: float, deviation: float) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def scale(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        assert module.bias is not None
        nn.init.normal_(module.weight)
        nn.init.zeros_(module.bias)
        raw = module.forward(inputs[0])
        factor = deviation / raw.std(dim=(0, 2, 3)).clamp_min(1e-6)
        module.weight.mul_(factor.view(-1, 1, 1, 1))
        module.bias.copy_(mean - factor * raw.mean(dim=(0, 2, 3)))

    return scale
