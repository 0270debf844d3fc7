"""What a model finds in one input: boxes, poses, boxes in space, classes; compared, drawn, written as JSON."""

from convkit.results._boxes3d import Boxes3D
from convkit.results._classification import Classification
from convkit.results._detections import Detections, box_iou
from convkit.results._draw import class_colour, draw_caption, draw_detections
from convkit.results._poses import COCO_EDGES, COCO_JOINTS, Poses
from convkit.results._result import DRAW_SCORE, SLACK, Difference, Result, json_difference, json_scales

__all__ = [
    "COCO_EDGES",
    "COCO_JOINTS",
    "DRAW_SCORE",
    "SLACK",
    "Boxes3D",
    "Classification",
    "Detections",
    "Difference",
    "Poses",
    "Result",
    "box_iou",
    "class_colour",
    "draw_caption",
    "draw_detections",
    "json_difference",
    "json_scales",
]
