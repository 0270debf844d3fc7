"""Drawing results on images."""

from __future__ import annotations

import colorsys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convkit.results._boxes3d import Boxes3D
    from convkit.results._detections import Detections
    from convkit.results._poses import Poses

__all__ = ["class_colour", "draw_boxes3d", "draw_caption", "draw_detections", "draw_poses"]

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN = 0.618033988749895
"""The golden ratio's fraction: hues that follow it stay far apart however many there are."""

Colour = tuple[int, int, int]
MARK: Colour = (255, 0, 255)
"""Magenta: what has no partner in another result."""


def class_colour(class_id: int) -> Colour:
    """Return the BGR colour of a class; neighbouring ids get very different hues."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + class_id * GOLDEN) % 1.0, 0.85, 0.95)
    return int(blue * 255), int(green * 255), int(red * 255)


def draw_detections(image: np.ndarray, detections: Detections, marked: Collection[int] = ()) -> np.ndarray:
    """Return a copy of the BGR image with every box, its class and score; the best on top, above them the ``marked``.

    Those are thick, in magenta, and say ``only here``.
    """
    canvas = image.copy()
    scale = max(image.shape[:2]) / 640
    thickness = max(1, round(2 * scale))
    order = sorted(range(len(detections)), key=lambda index: (index in marked, -index))
    for index in order:
        class_id = int(detections.class_ids[index])
        colour = MARK if index in marked else class_colour(class_id)
        x1, y1, x2, y2 = (int(np.clip(value, -1e5, 1e5)) for value in detections.boxes[index])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness * (1 + 2 * (index in marked)), cv2.LINE_AA)
        label = f"{detections.class_name(class_id)} {detections.scores[index]:.2f}"
        if index in marked:
            label = f"only here: {label}"
        _label(canvas, label, (x1, y1), colour, max(0.4, 0.5 * scale))
    return np.asarray(canvas)


def draw_poses(image: np.ndarray, poses: Poses) -> np.ndarray:
    """Return a copy of the BGR image with every box and score, the points and the lines between them; best on top."""
    canvas = image.copy()
    scale = max(image.shape[:2]) / 640
    thickness = max(1, round(2 * scale))
    for index in reversed(range(len(poses))):
        colour = class_colour(index)
        x1, y1, x2, y2 = _pixels(poses.boxes[index])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 1, cv2.LINE_AA)
        points = _pixels(poses.points[index])
        for first, second in poses.edges:
            cv2.line(canvas, tuple(points[first]), tuple(points[second]), colour, thickness, cv2.LINE_AA)
        for point in points:
            cv2.circle(canvas, tuple(point), thickness + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(canvas, tuple(point), thickness, colour, -1, cv2.LINE_AA)
        _label(canvas, f"{poses.scores[index]:.2f}", (x1, y1), colour, max(0.4, 0.5 * scale))
    return np.asarray(canvas)


def draw_boxes3d(image: np.ndarray, found: Boxes3D, edges: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return a copy of the BGR image with the projected edges of every box, its class, score and distance.

    A box that reaches behind the camera is drawn as its box in the image.
    """
    canvas = image.copy()
    scale = max(image.shape[:2]) / 640
    thickness = max(1, round(scale))
    matrix = found.calibration.astype(np.float64)
    for index, corners in reversed([*enumerate(found.corners())]):
        class_id = int(found.class_ids[index])
        colour = class_colour(class_id)
        x1, y1, x2, y2 = _pixels(found.boxes[index])
        projected = np.concatenate([corners, np.ones((8, 1))], axis=1) @ matrix.T
        if (projected[:, 2] > 1e-3).all():
            points = _pixels(projected[:, :2] / projected[:, 2:])
            for first, second in edges:
                cv2.line(canvas, tuple(points[first]), tuple(points[second]), colour, thickness, cv2.LINE_AA)
        else:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
        label = f"{found.class_name(class_id)} {found.scores[index]:.2f} {found.places[index][2]:.0f} m"
        _label(canvas, label, (x1, y1), colour, max(0.4, 0.5 * scale))
    return np.asarray(canvas)


def _pixels(values: np.ndarray) -> list[Any]:
    """Return whole pixels that OpenCV can draw to, NaN as 0."""
    limited = np.clip(np.nan_to_num(values.astype(np.float64)), -1e5, 1e5).astype(int)
    return list(limited.tolist())


def draw_caption(image: np.ndarray, text: str) -> np.ndarray:
    """Return a copy of the BGR image with a line of text in its upper left corner."""
    canvas = image.copy()
    scale = max(0.4, max(image.shape[:2]) / 1280)
    (_, height), base = cv2.getTextSize(text, FONT, scale, 1)
    _label(canvas, text, (0, height + base), (40, 40, 40), scale)
    return np.asarray(canvas)


def _label(canvas: np.ndarray, text: str, corner: tuple[int, int], colour: Colour, scale: float) -> None:
    """Write text on a filled ground above ``corner``, moved inside the image where it would leave it."""
    (width, height), base = cv2.getTextSize(text, FONT, scale, 1)
    x = int(np.clip(corner[0], 0, max(canvas.shape[1] - width, 0)))
    y = int(np.clip(corner[1], height + base, canvas.shape[0]))
    cv2.rectangle(canvas, (x, y - height - base), (x + width, y), colour, -1)
    ink = (0, 0, 0) if 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 140 else (255, 255, 255)
    cv2.putText(canvas, text, (x, y - base // 2), FONT, scale, ink, 1, cv2.LINE_AA)
