"""What is found out by running whole artifacts: the proof from raw inputs to results, task metrics over a data set."""

from convkit.evaluation._changes import Change, Changes
from convkit.evaluation._coco import METRICS, POINT_METRICS
from convkit.evaluation._data_sets import CocoFiles, DataSet, VocFolder
from convkit.evaluation._evaluate import check_data, evaluate_artifact, evaluate_artifacts, evaluate_engines
from convkit.evaluation._image_list import listed_images
from convkit.evaluation._options import EvaluationOptions
from convkit.evaluation._pipeline import check_pipeline
from convkit.evaluation._plot import check_plot, write_class_plot
from convkit.evaluation._report import EvaluationReport
from convkit.evaluation._validate import ArtifactProof, prove_artifact, prove_predictor, validate
from convkit.evaluation._voc_figures import VOC_METRICS

__all__ = [
    "METRICS",
    "POINT_METRICS",
    "VOC_METRICS",
    "ArtifactProof",
    "Change",
    "Changes",
    "CocoFiles",
    "DataSet",
    "EvaluationOptions",
    "EvaluationReport",
    "VocFolder",
    "check_data",
    "check_pipeline",
    "check_plot",
    "evaluate_artifact",
    "evaluate_artifacts",
    "evaluate_engines",
    "listed_images",
    "prove_artifact",
    "prove_predictor",
    "validate",
    "write_class_plot",
]
