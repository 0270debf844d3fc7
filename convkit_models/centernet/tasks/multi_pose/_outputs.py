"""The output forms, each twice: as the official code defines it, and as the graph computes it.

* ``heads``: the raw maps ``hm``, ``wh``, ``hps`` and, where the network has them, ``reg``, ``hm_hp``, ``hp_offset``.
* ``detections``: the tensor ``poses`` [B, K, 6 + 2J] with x1, y1, x2, y2, score, x and y of each joint, and the class
  (0), in input pixels, best first. Rows with score 0 stand for nothing: there were fewer than K peaks.

As in ctdet the graph compares logits where the official code compares scores, and it compares squares of distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convkit import ModulePatch
from convkit_models.centernet.tasks._forms import composed_patch, composed_reference
from convkit_models.centernet.tasks.multi_pose._decode import FAR, FARTHEST, THRESHOLD

__all__ = ["output_patch", "reference"]

Heads = Mapping[str, Tensor]

NO_PEAK = -1e4
"""Logit of cells that are no peak: its score is 0, and half precision can hold it."""
_LEAST = math.log(THRESHOLD / (1 - THRESHOLD))


def reference(spec: Mapping[str, Any]) -> Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what runs the untouched network and composes the form of a decode specification, officially."""
    compose = {"heads": _heads, "detections": _official_poses}[spec["form"]]
    return composed_reference(compose, spec)


def output_patch(spec: Mapping[str, Any]) -> ModulePatch:
    """Return the patch that makes the network return the form of a decode specification as a tuple."""
    compose = {"heads": _heads, "detections": _graph_poses}[spec["form"]]
    return composed_patch(compose, spec)


def _heads(heads: Heads, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: heads[name] for name in ("hm", "wh", "reg", "hps", "hm_hp", "hp_offset") if name in heads}


def _official_poses(heads: Heads, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """Decode as ``multi_pose_decode`` does."""
    count, stride = spec["topk"], spec["stride"]

    def peaks(logits: Tensor) -> Tensor:
        heat = logits.sigmoid()
        return (heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)).flatten(2)

    heat = peaks(heads["hm"])
    batch, width, joints = len(heat), heads["hm"].shape[3], heads["hps"].shape[1] // 2
    scores, cells = heat[:, 0].topk(count)
    x, y = (cells % width).to(heat.dtype), (cells // width).to(heat.dtype)

    def at(values: Tensor, places: Tensor) -> Tensor:
        return values.flatten(2).gather(2, places.unsqueeze(1).expand(-1, values.shape[1], -1)).transpose(1, 2)

    points = at(heads["hps"], cells).view(batch, count, joints, 2) + torch.stack([x, y], 2).unsqueeze(2)
    centres = torch.stack([x, y], 2) + (at(heads["reg"], cells) if "reg" in heads else 0.5)
    half = at(heads["wh"], cells) / 2
    corners = torch.cat([centres - half, centres + half], 2)
    if "hm_hp" in heads:
        found, spots = peaks(heads["hm_hp"]).topk(count)
        places = torch.stack([spots % width, spots // width], 3).to(heat.dtype)  # [B, J, K, 2]
        if "hp_offset" in heads:
            places = places + at(heads["hp_offset"], spots.flatten(1)).view(batch, joints, count, 2)
        else:
            places = places + 0.5
        counts = (found > THRESHOLD).unsqueeze(3)
        places = torch.where(counts, places, torch.full_like(places, FAR))
        found = torch.where(counts[..., 0], found, torch.full_like(found, -1))
        apart = ((points.transpose(1, 2).unsqueeze(3) - places.unsqueeze(2)) ** 2).sum(4).sqrt()  # [B, J, N, K]
        nearest, pick = apart.min(3)
        place = places.gather(2, pick.unsqueeze(3).expand(-1, -1, -1, 2)).transpose(1, 2)
        score, nearest = found.gather(2, pick).transpose(1, 2), nearest.transpose(1, 2)
        left, top, right, bottom = (corners[..., side : side + 1] for side in range(4))
        wrong = (place[..., 0] < left) | (place[..., 0] > right) | (place[..., 1] < top) | (place[..., 1] > bottom)
        wrong = wrong | (score < THRESHOLD) | (nearest > torch.maximum(bottom - top, right - left) * FARTHEST)
        points = torch.where(wrong.unsqueeze(3), points, place)
    labels = torch.zeros_like(scores).unsqueeze(2)
    columns = [corners * stride, scores.unsqueeze(2), points.flatten(2) * stride, labels]
    return {"poses": torch.cat(columns, 2)}


def _graph_poses(heads: Heads, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """Decode with integer arithmetic that stays integer in ONNX; coordinates are [B, 2, …]."""
    count, stride = spec["topk"], spec["stride"]
    hm = heads["hm"]
    width, joints = hm.shape[3], heads["hps"].shape[1] // 2

    def peaks(logits: Tensor) -> Tensor:
        return torch.where(logits == F.max_pool2d(logits, 3, stride=1, padding=1), logits, NO_PEAK).flatten(2)

    def position(cells: Tensor) -> Tensor:
        row = cells // width
        return torch.stack([cells - row * width, row], dim=1).to(hm.dtype)

    logits, cells = peaks(hm).squeeze(1).topk(count)
    maps = [heads["wh"], heads["hps"], *([heads["reg"]] if "reg" in heads else [])]
    joined = torch.cat(maps, dim=1).flatten(2)
    values = joined.gather(2, cells.unsqueeze(1).expand(-1, joined.shape[1], -1))
    cell = position(cells)
    centres = cell + (values[:, 2 + 2 * joints :] if "reg" in heads else 0.5)
    half = values[:, :2] / 2
    corners = torch.cat([centres - half, centres + half], dim=1)  # [B, 4, N]
    points = values[:, 2 : 2 + 2 * joints].view(-1, joints, 2, count) + cell.unsqueeze(1)  # [B, J, 2, N]
    if "hm_hp" in heads:
        points = _snapped(heads, points, corners, position, peaks(heads["hm_hp"]).topk(count))
    scores = logits.sigmoid().unsqueeze(1)
    columns = [corners * stride, scores, points.flatten(1, 2) * stride, torch.zeros_like(scores)]
    return {"poses": torch.cat(columns, dim=1).transpose(1, 2)}


def _snapped(
    heads: Heads, points: Tensor, corners: Tensor, position: Callable[[Tensor], Tensor], found: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the points, each moved to the nearest candidate of its joint where that is accepted."""
    logits, spots = found  # [B, J, K]
    joints, count = spots.shape[1:]
    places = position(spots)  # [B, 2, J, K]
    if "hp_offset" in heads:
        offsets = heads["hp_offset"].flatten(2)
        found_offsets = offsets.gather(2, spots.flatten(1).unsqueeze(1).expand(-1, 2, -1))
        places = places + found_offsets.view(-1, 2, joints, count)
    else:
        places = places + 0.5
    counts = logits > _LEAST
    places = torch.where(counts.unsqueeze(1), places, FAR).transpose(1, 2)  # [B, J, 2, K]
    apart = points.unsqueeze(4) - places.unsqueeze(3)  # [B, J, 2, N, K]
    distance = (apart * apart).sum(2)
    pick = distance.argmin(3)  # [B, J, N]
    place = places.gather(3, pick.unsqueeze(2).expand(-1, -1, 2, -1))  # [B, J, 2, N]
    nearest = distance.gather(3, pick.unsqueeze(3)).squeeze(3)
    low, high = corners[:, None, :2], corners[:, None, 2:]
    reach = (high - low).amax(2) * FARTHEST  # [B, 1, N]
    inside = torch.logical_and(place >= low, place <= high).all(2)
    # what does not count is FAR away: inside of no box but a huge one, so it is asked for as well
    near = torch.logical_and(nearest <= reach * reach, reach >= 0)
    accepted = torch.logical_and(torch.logical_and(inside, near), place[:, :, 0] > FAR)
    return torch.where(accepted.unsqueeze(2), place, points)
