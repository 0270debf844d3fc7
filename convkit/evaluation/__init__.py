"""Task metrics of an artifact over a data set."""

from convkit.evaluation._evaluate import METRICS, EvaluationReport, evaluate_artifact

__all__ = [
    "METRICS",
    "EvaluationReport",
    "evaluate_artifact",
]
