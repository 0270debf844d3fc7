"""The output forms, each twice: as the official code defines it, and as the graph computes it.

* ``heads``: the raw maps ``hm``, ``wh`` and, where the network has it, ``reg``.
* ``tensorrt-pro``: one tensor [B, H*W, 4 + 2C] with the columns reg x, reg y, width, height, C heat map
  logits and the same logits after 3x3 max pooling, as the tutorial of tensorRT_Pro exports it. A
  network without ``reg`` gives 0.5 there, which is what its decoding adds.
* ``detections``: [B, K, 6] with x1, y1, x2, y2 in input pixels, score and class, best first. Rows
  with score 0 stand for nothing: there were fewer than K peaks.

The graph compares *logits* where the official code compares their sigmoids. The sigmoid rises
strictly, so the peaks are the same, except that rounding can make two sigmoids equal whose logits
are not: the official code then keeps both neighbours, the graph the higher one. That takes logits
which differ by less than a rounding step of the score, or both so high (about 17 in float32) that
the score is exactly 1. With one top-K over all classes, ties aside, the graph also gets the rows of
the official two (per class, then over classes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convkit import ModulePatch
from convkit_models.centernet.tasks._forms import composed_patch, composed_reference

__all__ = ["output_patch", "reference"]

Heads = Mapping[str, Tensor]

NO_PEAK = -1e4
"""Logit of cells that are no peak: its score is 0, and half precision can hold it."""


def reference(spec: Mapping[str, Any]) -> Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what runs the untouched network and composes the form of a decode specification, officially."""
    compose = {"heads": _heads, "tensorrt-pro": _official_packed, "detections": _official_detections}[spec["form"]]
    return composed_reference(compose, spec)


def output_patch(spec: Mapping[str, Any]) -> ModulePatch:
    """Return the patch that makes the network return the form of a decode specification as a tuple."""
    compose = {"heads": _heads, "tensorrt-pro": _graph_packed, "detections": _graph_detections}[spec["form"]]
    return composed_patch(compose, spec)


def _heads(heads: Heads, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: heads[name] for name in ("hm", "wh", "reg") if name in heads}


def _offsets(heads: Heads) -> Tensor:
    """Return the position of each centre in its cell [B, 2, H, W]: predicted, or the middle."""
    return heads["reg"] if "reg" in heads else torch.full_like(heads["hm"][:, :1], 0.5).repeat(1, 2, 1, 1)


def _packed_channels(heads: Heads) -> Tensor:
    pooled = F.max_pool2d(heads["hm"], 3, stride=1, padding=1)
    return torch.cat([_offsets(heads), heads["wh"], heads["hm"], pooled], dim=1)


def _official_packed(heads: Heads, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    joined = _packed_channels(heads)
    batch, channels, height, width = joined.shape
    return {"output": joined.reshape(batch, channels, height * width).permute(0, 2, 1)}


def _graph_packed(heads: Heads, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"output": _packed_channels(heads).flatten(2).transpose(1, 2)}


def _official_detections(heads: Heads, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """Decode as ``ctdet_decode`` does: sigmoid, peaks, top-K of each class, top-K of those."""
    heat = heads["hm"].sigmoid()
    heat = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)
    batch, classes, height, width = heat.shape
    count = spec["topk"]
    class_scores, class_cells = heat.flatten(2).topk(count)
    scores, picks = class_scores.flatten(1).topk(count)
    cells = class_cells.flatten(1).gather(1, picks)
    labels = picks // count

    def at_cells(values: Tensor) -> Tensor:
        rows = values.permute(0, 2, 3, 1).reshape(batch, height * width, -1)
        return rows.gather(1, cells.unsqueeze(2).expand(-1, -1, rows.shape[2]))

    offsets = at_cells(_offsets(heads))
    x = (cells % width).to(heat.dtype) + offsets[..., 0]
    y = (cells // width).to(heat.dtype) + offsets[..., 1]
    sizes = at_cells(heads["wh"])
    if spec["sizes_per_class"]:
        pairs = sizes.view(batch, count, classes, 2)
        sizes = pairs.gather(2, labels.view(batch, count, 1, 1).expand(-1, -1, 1, 2)).squeeze(2)
    half_width, half_height = sizes[..., 0] / 2, sizes[..., 1] / 2
    corners = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=2)
    columns = [corners * spec["stride"], scores.unsqueeze(2), labels.unsqueeze(2).to(heat.dtype)]
    return {"detections": torch.cat(columns, dim=2)}


def _graph_detections(heads: Heads, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """Decode with one top-K and integer arithmetic that stays integer in ONNX."""
    hm = heads["hm"]
    width, cells_per_class = hm.shape[3], hm.shape[2] * hm.shape[3]
    peaks = torch.where(hm == F.max_pool2d(hm, 3, stride=1, padding=1), hm, NO_PEAK)
    logits, picks = peaks.flatten(1).topk(spec["topk"])
    labels, cells = _divide(picks, cells_per_class)
    row, column = _divide(cells, width)
    maps = torch.cat([_offsets(heads), heads["wh"]], dim=1)
    at_cells = maps.flatten(2).gather(2, cells.unsqueeze(1).expand(-1, maps.shape[1], -1))
    centres = torch.stack([column, row], dim=1).to(hm.dtype) + at_cells[:, :2]
    sizes = at_cells[:, 2:]
    if spec["sizes_per_class"]:
        sizes = sizes.gather(1, torch.stack([2 * labels, 2 * labels + 1], dim=1))
    corners = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1) * spec["stride"]
    scores_and_labels = torch.stack([logits.sigmoid(), labels.to(hm.dtype)], dim=1)
    return {"detections": torch.cat([corners, scores_and_labels], dim=1).transpose(1, 2)}


def _divide(numbers: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Return quotient and remainder of int64 numbers; the exporter knows no ``%`` by a dynamic size."""
    quotient = numbers // divisor
    return quotient, numbers - quotient * divisor
