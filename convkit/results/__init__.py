"""What a model finds in one input: boxes, classes; compared, drawn, written as JSON."""

from convkit.results._classification import Classification
from convkit.results._detections import Detections
from convkit.results._draw import class_colour, draw_caption, draw_detections
from convkit.results._result import Result

__all__ = [
    "Classification",
    "Detections",
    "Result",
    "class_colour",
    "draw_caption",
    "draw_detections",
]
