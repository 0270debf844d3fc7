"""What people look at: drawn results and the HTML report."""

from convkit.report._draw import draw_caption, draw_detections
from convkit.report._html import render_report

__all__ = ["draw_caption", "draw_detections", "render_report"]
