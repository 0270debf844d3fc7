"""Pictures for people: drawn results."""

from convkit.report._draw import draw_caption, draw_detections

__all__ = ["draw_caption", "draw_detections"]
