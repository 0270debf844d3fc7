"""What is found out by running whole artifacts: task metrics over a data set, the upper rungs of an engine."""

from convkit.evaluation._engines import EngineProof, prove_engine
from convkit.evaluation._evaluate import METRICS, EvaluationReport, evaluate_artifact, evaluate_engines

__all__ = [
    "METRICS",
    "EngineProof",
    "EvaluationReport",
    "evaluate_artifact",
    "evaluate_engines",
    "prove_engine",
]
