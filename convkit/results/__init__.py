"""What a model finds in one input: boxes, classes; compared, drawn, written as JSON."""

from convkit.results._classification import Classification
from convkit.results._detections import Detections, box_iou
from convkit.results._draw import class_colour, draw_caption, draw_detections
from convkit.results._result import DRAW_SCORE, SLACK, Difference, Result, json_difference, json_scales

__all__ = [
    "DRAW_SCORE",
    "SLACK",
    "Classification",
    "Detections",
    "Difference",
    "Result",
    "box_iou",
    "class_colour",
    "draw_caption",
    "draw_detections",
    "json_difference",
    "json_scales",
]
