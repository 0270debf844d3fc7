"""Task metrics of an artifact over a data set."""

from convkit.evaluation._evaluate import EvaluationReport, evaluate_artifact

__all__ = [
    "EvaluationReport",
    "evaluate_artifact",
]
