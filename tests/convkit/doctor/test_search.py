"""Known error texts: found wherever they stand, with the line they stand in."""

from __future__ import annotations

from convkit.doctor import Remedy, diagnose

DISK = Remedy(r"No space left on device", "the disk is full", "free some space")
OPSET = Remedy(r"opset (\d+) is under development", "the opset is too new", "use a lower --opset")
MULTI = Remedy(r"first\nsecond", "two lines", "none")

LOG = """loading model
[E:onnxruntime] ONNX Opset 26 is under development and support is limited
OSError: [Errno 28] no space left on device: 'x'
"""


def test_every_remedy_that_fits_is_given_with_its_line():
    assert diagnose(LOG, [DISK, MULTI, OPSET]) == [
        (DISK, "OSError: [Errno 28] no space left on device: 'x'"),
        (OPSET, "[E:onnxruntime] ONNX Opset 26 is under development and support is limited"),
    ]


def test_a_pattern_may_span_lines_and_stand_at_either_end_of_the_text():
    assert diagnose("first\nsecond", [MULTI]) == [(MULTI, "first\nsecond")]
    assert diagnose("No space left on device", [DISK]) == [(DISK, "No space left on device")]


def test_an_unknown_text_has_no_remedy():
    assert diagnose("everything is fine", [DISK, OPSET]) == []
    assert diagnose("", [DISK]) == []
