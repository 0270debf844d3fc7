"""CenterNet's training targets and loss (Zhou, Wang, Krähenbühl: Objects as Points, 2019), vectorised over a batch.

A batch of boxes is float32 ``[B, M, 4]`` (x1, y1, x2, y2 in input pixels) with labels int64 ``[B, M]``; images with
fewer than ``M`` objects are filled up with label -1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SIZE_WEIGHT", "STRIDE", "Losses", "Targets", "encode", "focal_loss", "gaussian_radius", "losses"]

STRIDE = 4
"""Input pixels a cell of the heat map."""
SIZE_WEIGHT = 0.1
_MIN_OVERLAP = 0.7


class Targets(NamedTuple):
    """What the heads should say about a batch.

    ``heat`` float32 ``[B, C, h, w]``: a Gaussian splat an object, 1 at its centre cell. ``size`` and ``offset`` float32
    ``[B, M, 2]``: width and height in cells, and the centre's place (x, y) within its cell. ``cell`` int64 ``[B, M]``:
    the centre's cell as ``y * w + x``. ``present`` bool ``[B, M]``.
    """

    heat: Tensor
    size: Tensor
    offset: Tensor
    cell: Tensor
    present: Tensor


class Losses(NamedTuple):
    """The three terms, unweighted, and their weighted sum; all scalars."""

    heat: Tensor
    size: Tensor
    offset: Tensor
    total: Tensor


def gaussian_radius(width: Tensor, height: Tensor, min_overlap: float = _MIN_OVERLAP) -> Tensor:
    """Return how far (in cells) a box may move and still overlap its old place by ``min_overlap``.

    The smallest of the three cases of CornerNet (Law and Deng 2018): one corner inside and one outside, both inside,
    both outside. Each root is taken as ``(b + sqrt(b^2 - 4ac)) / 2``, without the division by ``a``, because the
    official CenterNet and CornerNet code does so and its checkpoints were trained with it.
    """
    around, area = width + height, width * height
    coefficients = (
        (1.0, around, area * (1.0 - min_overlap) / (1.0 + min_overlap)),
        (4.0, 2.0 * around, (1.0 - min_overlap) * area),
        (4.0 * min_overlap, -2.0 * min_overlap * around, (min_overlap - 1.0) * area),
    )
    roots = [(b + (b * b - 4.0 * a * c).sqrt()) / 2.0 for a, b, c in coefficients]
    return torch.stack(roots).amin(0)


def encode(boxes: Tensor, labels: Tensor, classes: int, shape: tuple[int, int]) -> Targets:
    """Turn boxes and labels into targets for heat maps of ``shape`` (cells high, cells wide)."""
    rows, columns = shape
    present = labels >= 0
    low, high = boxes[..., :2] / STRIDE, boxes[..., 2:] / STRIDE
    size, centre = high - low, (low + high) / 2
    corner = centre.floor()
    x = corner[..., 0].long().clamp(0, columns - 1)
    y = corner[..., 1].long().clamp(0, rows - 1)

    extent = size.ceil()
    radius = gaussian_radius(extent[..., 0], extent[..., 1]).floor().clamp(min=0)[..., None]
    along_x = _bell(torch.arange(columns, device=boxes.device) - x[..., None], radius)
    along_y = _bell(torch.arange(rows, device=boxes.device) - y[..., None], radius)
    splats = along_y[..., :, None] * along_x[..., None, :] * present[..., None, None]
    heat = boxes.new_zeros(len(boxes), classes, rows, columns)
    channel = labels.clamp(min=0)[..., None, None].expand_as(splats)
    heat.scatter_reduce_(1, channel, splats, "amax")
    return Targets(heat, size, centre - corner, y * columns + x, present)


def _bell(distance: Tensor, radius: Tensor) -> Tensor:
    """Return a Gaussian of six standard deviations' diameter, cut off beyond the radius."""
    sigma = (2.0 * radius + 1.0) / 6.0
    return torch.exp(-(distance**2) / (2.0 * sigma**2)) * (distance.abs() <= radius)


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss with alpha 2 and beta 4, divided by the number of centres.

    Probabilities are kept between 1e-4 and 1 - 1e-4, as the official code does.
    """
    probability = logits.sigmoid().clamp(1e-4, 1.0 - 1e-4)
    centre = heat == 1.0
    at_centres = (1.0 - probability) ** 2 * probability.log()
    elsewhere = (1.0 - heat) ** 4 * probability**2 * (1.0 - probability).log()
    return -torch.where(centre, at_centres, elsewhere).sum() / centre.sum().clamp(min=1)


def losses(outputs: dict[str, Tensor], targets: Targets) -> Losses:
    """Return the loss of raw head outputs: ``hm`` ``[B, C, h, w]``, ``wh`` and ``reg`` ``[B, 2, h, w]``."""
    heat = focal_loss(outputs["hm"].float(), targets.heat)
    size = _l1(outputs["wh"].float(), targets.size, targets)
    offset = _l1(outputs["reg"].float(), targets.offset, targets)
    return Losses(heat, size, offset, heat + SIZE_WEIGHT * size + offset)


def _l1(field: Tensor, wanted: Tensor, targets: Targets) -> Tensor:
    """Return the mean absolute error at the centres; both channels of an object count."""
    at_cells = targets.cell[:, None, :].expand(-1, field.shape[1], -1)
    found = field.flatten(2).gather(2, at_cells).transpose(1, 2)
    mask = targets.present[..., None].to(field.dtype).expand_as(wanted)
    return F.l1_loss(found * mask, wanted * mask, reduction="sum") / (mask.sum() + 1e-4)
