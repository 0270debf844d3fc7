"""What TensorRT does on this machine, step by step: the work of ``convkit doctor --tensorrt``."""

from convkit.doctor.tensorrt._examination import examine_tensorrt
from convkit.doctor.tensorrt._report import TensorRTReport, overview
from convkit.doctor.tensorrt._steps import FAILED, NOT_OFFERED, PASSED, SKIPPED, WRONG, Step

__all__ = [
    "FAILED",
    "NOT_OFFERED",
    "PASSED",
    "SKIPPED",
    "WRONG",
    "Step",
    "TensorRTReport",
    "examine_tensorrt",
    "overview",
]
