"""Programs as PyTorch modules."""

from __future__ import annotations

from typing import Any

import torch
from support.fuzz._program import CHANNELS, Program, Step
from torch import Tensor, nn
from torch.nn import functional as F

from convkit_plugins.dcnv2 import DCN

__all__ = ["Fragment"]

_ACTIVATIONS: dict[str, Any] = {
    "relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "silu": F.silu, "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1), "elu": F.elu, "mish": F.mish, "softplus": F.softplus,
    "relu6": F.relu6, "abs": torch.abs, "square": lambda x: x.clamp(-4, 4) ** 2,
    "root": lambda x: (x.abs() + 0.5).sqrt(),
    "decay": lambda x: torch.exp(-x.abs()), "leaky_where": lambda x: torch.where(x > 0, x, 0.25 * x),
    "clamp": lambda x: x.clamp(-0.75, 1.25), "scaled": lambda x: 0.5 * x + 0.125, "negated": lambda x: 1 - x,
}  # fmt: skip
_PAIRS: dict[str, Any] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum,
    "mean": lambda a, b: (a + b) / 2,
}  # fmt: skip


def _batch_norm(channels: int, *, axes: int = 2) -> nn.Module:
    norm = nn.BatchNorm2d(channels) if axes == 2 else nn.BatchNorm1d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, std=0.2)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    nn.init.normal_(norm.running_mean, std=0.2)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


def _layer(step: Step, given: list[torch.Size]) -> nn.Module:
    """Return the module with the weights of a step, for inputs of these shapes."""
    s, x = step.settings, given[0]
    if step.kind == "conv":
        layer: nn.Module = nn.Conv2d(
            x[1], s["out"], s["kernel"], s["stride"], s["pad"], s["dilation"], s["groups"], s["bias"]
        )
        return nn.Sequential(layer, _batch_norm(s["out"])) if s["norm"] else layer
    if step.kind == "conv_transpose":
        layer = nn.ConvTranspose2d(
            x[1], s["out"], s["kernel"], s["stride"], s["pad"], s["extra"], s["groups"], s["bias"]
        )
        return nn.Sequential(layer, _batch_norm(s["out"])) if s["norm"] else layer
    if step.kind == "deform_conv":
        dcn = DCN(x[1], s["out"], s["kernel"], s["stride"], s["pad"], deformable_groups=s["groups"])
        nn.init.normal_(dcn.conv_offset_mask.weight, std=0.2)
        nn.init.normal_(dcn.bias, std=0.2)
        return nn.Sequential(dcn, _batch_norm(s["out"])) if s["norm"] else dcn
    if step.kind == "norm":
        kinds: dict[str, Any] = {
            "batch": lambda: _batch_norm(x[1], axes=len(x) - 2), "group": lambda: nn.GroupNorm(1, x[1]),
            "layer": lambda: nn.LayerNorm(x[1]),
            "instance": lambda: (nn.InstanceNorm2d if len(x) == 4 else nn.InstanceNorm1d)(x[1], affine=True),
        }  # fmt: skip
        return kinds[s["of"]]()
    return nn.Linear(x[1], s["out"], s["bias"]) if step.kind == "linear" else nn.Identity()


class Fragment(nn.Module):
    """The module of a program; the same weights for the same steps, wherever they stand."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.layers = nn.ModuleList()
        shapes = [torch.Size([2, CHANNELS, 16, 16])]
        with torch.random.fork_rng(), torch.no_grad():
            for step in program.steps:
                torch.manual_seed(step.seed)
                given = [shapes[read] for read in step.reads]
                self.layers.append(_layer(step, given).eval())
                shapes.append(self._run(step, self.layers[-1], [torch.zeros(shape) for shape in given]).shape)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, layer in zip(self.program.steps, self.layers, strict=True):
            values.append(self._run(step, layer, [values[read] for read in step.reads]))
        return values[-1]

    def _run(self, step: Step, layer: nn.Module, given: list[Tensor]) -> Tensor:
        s, x = step.settings, given[0]
        if step.kind in ("conv", "conv_transpose", "deform_conv", "norm"):
            return layer(x)
        function: Any = getattr(self, f"_{step.kind}")
        if step.kind == "linear":
            return self._linear(layer, x)
        return function(s, *given)

    def _linear(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x) if x.dim() == 2 else layer(x.transpose(1, 2)).transpose(1, 2)

    def _activation(self, s: Any, x: Tensor) -> Tensor:
        return _ACTIVATIONS[s["of"]](x)

    def _pool(self, s: Any, x: Tensor) -> Tensor:
        if s["of"] == "max":
            return F.max_pool2d(x, s["window"], s["stride"], s["pad"], ceil_mode=s["up"])
        return F.avg_pool2d(x, s["window"], s["stride"], s["pad"], count_include_pad=s["count_pad"])

    def _resize(self, s: Any, x: Tensor) -> Tensor:
        align = {} if s["mode"] == "nearest" else {"align_corners": s["align"]}
        size = {"size": s["size"]} if "size" in s else {"scale_factor": s["factor"]}
        return F.interpolate(x, mode=s["mode"], **size, **align)

    def _part(self, s: Any, x: Tensor) -> Tensor:
        if s["of"] == "channels":
            return x[:, s["first"] : s["last"]]
        return {
            "border": lambda: x[:, :, 1:-1, 1:-1], "second": lambda: x[..., ::2],
            "half": lambda: x[:, :, : x.shape[2] // 2], "flipped": lambda: x.flip(3),
        }[s["of"]]()  # fmt: skip

    def _pad(self, s: Any, x: Tensor) -> Tensor:
        return F.pad(x, s["amounts"], mode=s["mode"])

    def _turn(self, s: Any, x: Tensor) -> Tensor:
        if s["of"] == "shuffle":
            batch, channels, height, width = x.shape
            return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)
        return {
            "flatten": lambda: x.flatten(2), "exchange": lambda: x.permute(0, 1, 3, 2),
            "depth_to_space": lambda: F.pixel_shuffle(x, 2),
        }[s["of"]]()  # fmt: skip

    def _reduction(self, s: Any, x: Tensor) -> Tensor:
        space = tuple(range(2, x.dim()))
        return {
            "mean_space": lambda: x.mean(space), "max_space": lambda: x.amax(space),
            "mean_channels": lambda: x.mean(1, keepdim=True), "max_channels": lambda: x.amax(1, keepdim=True),
            "norm_channels": lambda: torch.linalg.vector_norm(x, dim=1, keepdim=True),
            "log_sum_channels": lambda: torch.logsumexp(x, 1, keepdim=True),
        }[s["of"]]()  # fmt: skip

    def _attention(self, s: Any, x: Tensor) -> Tensor:
        keys = x.transpose(1, 2)
        return (torch.softmax(keys @ x * s["scale"], -1) @ keys).transpose(1, 2)

    def _softmax(self, s: Any, x: Tensor) -> Tensor:
        return torch.softmax(x, s["dim"])

    def _position(self, s: Any, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        if s["of"] == "column":
            return x + torch.arange(width, device=x.device).to(x.dtype) / width
        if s["of"] == "row":
            return x + (torch.arange(height, device=x.device).to(x.dtype) / height)[:, None]
        return x / (height * width) * 64 if s["of"] == "area" else x * (1 / (0.5 * height + 0.5 * width))

    def _pair(self, s: Any, a: Tensor, b: Tensor) -> Tensor:
        return _PAIRS[s["of"]](a, b)

    def _concat(self, s: Any, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1)

    def _gate(self, s: Any, a: Tensor, b: Tensor) -> Tensor:
        return a * torch.sigmoid(b if b.dim() == 4 else b[:, :, None, None])
