"""Layers that sample between pixels: resize and grid sample; and non-maximum suppression."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from convkit.backends.tensorrt._replay._call import LayerCall, replays

__all__: list[str] = []

_GRID_MODES = {"NEAREST": "nearest", "LINEAR": "bilinear", "CUBIC": "bicubic"}
_GRID_BORDERS = {"FILL": "zeros", "CLAMP": "border", "REFLECT": "reflection"}

_ROUNDING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "FLOOR": torch.floor,
    "CEIL": torch.ceil,
    "HALF_UP": lambda place: torch.floor(place + 0.5),
    "HALF_DOWN": lambda place: torch.ceil(place - 0.5),
}


@replays("GRID_SAMPLE")
def grid_sample(call: LayerCall) -> torch.Tensor:
    """Sample at the places of a grid, whose -1 and 1 are the centres of the corner pixels or the edges of the image."""
    mode, border = call.attribute("interpolation_mode"), call.attribute("sample_mode")
    if border not in _GRID_BORDERS:
        raise call.no_replay(f"grid sampling with {border} at the border")
    return F.grid_sample(
        call.x, call.tensor(1), mode=_GRID_MODES[mode], padding_mode=_GRID_BORDERS[border],
        align_corners=bool(call.attribute("align_corners")),
    )  # fmt: skip


@replays("RESIZE")
def resize(call: LayerCall) -> torch.Tensor:
    """Resize axis by axis to the sizes of input 1 or of the layer, or by its scales (sizes are cut off).

    The place of output i of O in an input of I: ALIGN_CORNERS i * (I - 1) / (O - 1), ASYMMETRIC i * I / O, HALF_PIXEL
    (i + 0.5) * I / O - 0.5; an output of one pixel is the first under the selector UPPER. Scales that give no whole
    size have no replay: TensorRT documents the ratio of sizes for them, ONNX that of the scales.
    """
    scales: list[float] = [float(scale) for scale in call.attribute("scales") or []]
    if call.optional(1) is not None:
        sizes = call.integers(1)
    elif scales:
        exact = [size * scale for size, scale in zip(call.x.shape, scales, strict=True)]
        sizes = [math.floor(size + 1e-3) for size in exact]
        if any(abs(size - whole) > 1e-3 for size, whole in zip(exact, sizes, strict=True)):
            raise call.no_replay(f"scales {scales} that give no whole size for {list(call.x.shape)}")
    else:
        sizes = call.integers(1, "shape")
    result = call.x
    for axis, (before, after) in enumerate(zip(call.x.shape, sizes, strict=True)):
        if before != after:
            result = _resize_axis(call, result, axis, after)
    return result


def _resize_axis(call: LayerCall, x: torch.Tensor, axis: int, after: int) -> torch.Tensor:
    before = x.shape[axis]
    ratio = before / after
    places = torch.arange(after, dtype=torch.float64)
    kind = call.attribute("coordinate_transformation")
    if after == 1 and call.attribute("selector_for_single_pixel") == "UPPER":
        places = torch.zeros_like(places)
    elif kind == "ALIGN_CORNERS":
        places = places * ((before - 1) / (after - 1) if after > 1 else 0.0)
    elif kind == "ASYMMETRIC":
        places = places * ratio
    else:
        places = (places + 0.5) * ratio - 0.5
    mode = call.attribute("resize_mode")
    if mode == "NEAREST":
        near = _ROUNDING[call.attribute("nearest_rounding")](places)
        return x.index_select(axis, near.clamp(0, before - 1).long())
    low = torch.floor(places)
    part = places - low
    taps = _cubic_taps(part, call.attribute("cubic_coeff")) if mode == "CUBIC" else {0: 1 - part, 1: part}
    result = torch.zeros_like(x.index_select(axis, torch.zeros(after, dtype=torch.long)))
    total = torch.zeros_like(part)
    for offset, weight in taps.items():
        place = low + offset
        if mode == "CUBIC" and call.attribute("exclude_outside"):
            weight = torch.where((place < 0) | (place > before - 1), 0.0, weight)
        total = total + weight
        shape = [-1 if other == axis else 1 for other in range(x.ndim)]
        result = result + x.index_select(axis, place.clamp(0, before - 1).long()) * weight.reshape(shape).to(x.dtype)
    if mode == "CUBIC" and call.attribute("exclude_outside"):
        result = result / total.reshape([-1 if other == axis else 1 for other in range(x.ndim)]).to(x.dtype)
    return result


def _cubic_taps(part: torch.Tensor, a: float) -> dict[int, torch.Tensor]:
    """Return the weights of the four pixels around, by Keys' kernel with coefficient ``a``."""

    def near(d: torch.Tensor) -> torch.Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: torch.Tensor) -> torch.Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return {-1: far(part + 1), 0: near(part), 1: near(1 - part), 2: far(2 - part)}


@replays("NMS")
def non_maximum_suppression(call: LayerCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose boxes: best score first, those that overlap a chosen one by more than a limit left out.

    Boxes are batch x boxes x 4, scores batch x boxes x classes; inputs 2 to 4 are the most boxes of a class, the limit
    of intersection over union and the score to exceed. Rows of the result are batch item, class, box.
    """
    boxes, scores = call.x, call.tensor(1)
    if call.optional(2) is None:
        raise call.no_replay("non-maximum suppression without a limit of boxes")
    most = call.integers(2)[0]
    overlap = 0.0 if call.optional(3) is None else float(call.tensor(3))
    lowest = 0.0 if call.optional(4) is None else float(call.tensor(4))
    if call.attribute("bounding_box_format") == "CENTER_SIZES":
        half = boxes[..., 2:] / 2
        corners = torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)
    else:
        corners = torch.cat([torch.minimum(boxes[..., :2], boxes[..., 2:]),
                             torch.maximum(boxes[..., :2], boxes[..., 2:])], -1)  # fmt: skip
    chosen: list[tuple[int, int, int]] = []
    for item in range(boxes.shape[0]):
        for kind in range(scores.shape[2]):
            chosen += [(item, kind, box) for box in _suppress(corners[item], scores[item, :, kind], most, overlap,
                                                             lowest)]  # fmt: skip
    return torch.tensor(chosen, dtype=torch.int64).reshape(-1, 3), torch.tensor(len(chosen))


def _suppress(corners: torch.Tensor, scores: torch.Tensor, most: int, overlap: float, lowest: float) -> list[int]:
    kept: list[int] = []
    for box in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if scores[box] <= lowest or len(kept) >= most:
            break
        if all(_iou(corners[box], corners[other]) <= overlap for other in kept):
            kept.append(box)
    return kept


def _iou(a: torch.Tensor, b: torch.Tensor) -> float:
    shared = float(torch.clamp(torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2]), min=0).prod())
    union = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0
