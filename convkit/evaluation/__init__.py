"""What is found out by running whole artifacts: the proof from raw inputs to results, task metrics over a data set."""

from convkit.evaluation._evaluate import METRICS, EvaluationReport, check_data, evaluate_artifact, evaluate_engines
from convkit.evaluation._image_list import listed_images
from convkit.evaluation._pipeline import check_pipeline
from convkit.evaluation._validate import ArtifactProof, prove_artifact, prove_predictor, validate

__all__ = [
    "METRICS",
    "ArtifactProof",
    "EvaluationReport",
    "check_data",
    "check_pipeline",
    "evaluate_artifact",
    "evaluate_engines",
    "listed_images",
    "prove_artifact",
    "prove_predictor",
    "validate",
]
