"""CenterNet as it is usually run with PyTorch on a GPU: torchvision's operator, torch's decode, OpenCV's preprocess.

The scripts that compare convkit with it share this module.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convkit import Prepared
from convkit_models.centernet._geometry import affine, transform
from convkit_models.centernet._names import INPUT
from convkit_plugins.dcnv2 import DCN

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


class TorchvisionDCN(nn.Module):
    """The layer by torchvision's operator, as CenterNet ports use it."""

    def __init__(self, layer: DCN) -> None:
        super().__init__()
        self.weight, self.bias, self.conv_offset_mask = layer.weight, layer.bias, layer.conv_offset_mask
        self.settings = (layer.stride, layer.padding, layer.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, out, oh, ow] for x [N, in, H, W]."""
        from torchvision.ops import deform_conv2d

        first, second, mask = self.conv_offset_mask(x).chunk(3, dim=1)
        offset = torch.cat((first, second), dim=1)
        return deform_conv2d(x, offset, self.weight, self.bias, *self.settings, mask.sigmoid())


class Heads(nn.Module):
    """The network as a function of one tensor to the heads, in the order of ``names``."""

    def __init__(self, network: nn.Module, names: Sequence[str], *, torchvision: bool) -> None:
        super().__init__()
        self.network, self.names = copy.deepcopy(network), tuple(names)
        if torchvision:
            for name, module in list(self.network.named_modules()):
                if isinstance(module, DCN):
                    parent, _, child = name.rpartition(".")
                    setattr(self.network.get_submodule(parent), child, TorchvisionDCN(module))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the heads."""
        heads = self.network(images)[-1]
        return tuple(heads[name] for name in self.names)


def on_gpu(network: nn.Module, names: Sequence[str], *, torchvision: bool) -> Heads:
    """Return the network on the GPU in float16, channels-last."""
    return Heads(network, names, torchvision=torchvision).cuda().half().to(memory_format=torch.channels_last)


def peaks(logits: Tensor) -> Tensor:
    """Return the scores of a heat map, 0 where a cell is no peak."""
    heat = logits.sigmoid()
    return heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)


def decode_boxes(heads: Mapping[str, Tensor], k: int = 100) -> Tensor:
    """Return [B, K, 6] in cells by the usual operators: sigmoid, max_pool2d, topk, gather."""
    heat = peaks(heads["hm"].float())
    width = heat.shape[3]
    scores, cells = heat.flatten(2).topk(k)
    scores, picks = scores.flatten(1).topk(k)
    cells, labels = cells.flatten(1).gather(1, picks), picks // k
    index = cells.unsqueeze(1).expand(-1, 2, -1)
    offset, size = (heads[name].float().flatten(2).gather(2, index) for name in ("reg", "wh"))
    centre = torch.stack([cells % width, cells // width], 1) + offset
    rows = [centre - size / 2, centre + size / 2, scores.unsqueeze(1), labels.unsqueeze(1)]
    return torch.cat(rows, 1).transpose(1, 2)


def decode_poses(heads: Mapping[str, Tensor], k: int = 100) -> Tensor:
    """Return [B, K, 5 + 2J] in cells, box, score and joints, by the usual operators and steps of CenterNet."""
    maps = {name: value.float() for name, value in heads.items()}
    heat, width = peaks(maps["hm"]), maps["hm"].shape[3]
    batch, joints = len(heat), maps["hm_hp"].shape[1]

    def at(values: Tensor, places: Tensor) -> Tensor:
        return values.flatten(2).gather(2, places.unsqueeze(1).expand(-1, values.shape[1], -1)).transpose(1, 2)

    def position(cells: Tensor) -> Tensor:
        return torch.stack([cells % width, cells // width], -1).float()

    scores, cells = heat[:, 0].flatten(1).topk(k)
    points = at(maps["hps"], cells).view(batch, k, joints, 2) + position(cells).unsqueeze(2)
    centre, half = position(cells) + at(maps["reg"], cells), at(maps["wh"], cells) / 2
    low, high = centre - half, centre + half
    found, spots = peaks(maps["hm_hp"]).flatten(2).topk(k)
    places = position(spots) + at(maps["hp_offset"], spots.flatten(1)).view(batch, joints, k, 2)
    counts = found > 0.1
    places = torch.where(counts.unsqueeze(3), places, -10000.0)
    distance, pick = (points.transpose(1, 2).unsqueeze(3) - places.unsqueeze(2)).square().sum(4).sqrt().min(3)
    place = places.gather(2, pick.unsqueeze(3).expand(-1, -1, -1, 2)).transpose(1, 2)
    inside = (place >= low.unsqueeze(2)).all(3) & (place <= high.unsqueeze(2)).all(3)
    near = distance.transpose(1, 2) <= 0.3 * (high - low).amax(2, keepdim=True)
    joined = torch.where((inside & near & (place[..., 0] > -10000)).unsqueeze(3), place, points)
    return torch.cat([low, high, scores.unsqueeze(2), joined.flatten(2)], 2)


def usual_pipeline(preprocess: Callable[[np.ndarray], Prepared], run: Callable[[Tensor], Tensor]) -> Run:
    """Return the usual pipeline: OpenCV's preprocess, upload, ``run``, copy, and the way back into the image.

    ``run`` is given a float32 tensor [B, 3, H, W] on the host, and returns rows in cells on the GPU: the box's corners,
    the score, and then x and y of joints, or a class.
    """

    def pipeline(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        prepared = [preprocess(image) for image in images]
        rows = run(torch.from_numpy(np.stack([item.tensors[INPUT] for item in prepared]))).cpu().numpy()
        results = []
        for row, item in zip(rows, prepared, strict=True):
            height, width = item.meta["input"]
            matrix = affine(item.meta["center"], item.meta["scale"], (width // 4, height // 4), inverse=True)
            points = row.shape[1] > 6
            columns = [0, 1, 2, 3, *(range(5, row.shape[1]) if points else ())]
            mapped = transform(row[:, columns].reshape(len(row), -1, 2), matrix).reshape(len(row), -1)
            rest = row[:, 4:5] if points else row[:, 4:]
            results.append(np.concatenate([mapped[:, :4], rest, mapped[:, 4:]], 1))
        return results

    return pipeline
