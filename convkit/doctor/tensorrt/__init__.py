"""What TensorRT does on this machine, step by step: the work of ``convkit doctor --tensorrt``."""

from convkit.doctor.tensorrt._examination import examine_tensorrt
from convkit.doctor.tensorrt._report import TensorRTReport, overview
from convkit.doctor.tensorrt._steps import FAILED, NOT_OFFERED, PASSED, SKIPPED, WRONG, Step
from convkit.doctor.tensorrt._trial import LIMITS

__all__ = [
    "FAILED",
    "LIMITS",
    "NOT_OFFERED",
    "PASSED",
    "SKIPPED",
    "WRONG",
    "Step",
    "TensorRTReport",
    "examine_tensorrt",
    "overview",
]
