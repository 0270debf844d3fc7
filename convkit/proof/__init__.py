"""Proof: cases, metrics, the float64 rule, the ledger, golden samples and the verdict."""

from convkit.proof._beside import Beside, Task
from convkit.proof._cases import Case, ItemSizes, engine_cases, shape_cases
from convkit.proof._computes import Compute, TorchCompute, by_items, feed_key, patched_compute, run_parallel
from convkit.proof._golden import GoldenSamples
from convkit.proof._ladder import (
    GRAPH_CHECKS,
    METRIC,
    artifact_ladder,
    decoded_rung,
    failures_json,
    pipeline_rung,
    rung_of,
)
from convkit.proof._layers import LAYERS, Layers, Runs, Visit, layer_feed
from convkit.proof._ledger import Ledger
from convkit.proof._metrics import TensorError, measure
from convkit.proof._prove import check_repeated, measure_baselines, prove, score_slack
from convkit.proof._rule import DECODED, ILL_CONDITIONED, baselines_of, judge, limits_of
from convkit.proof._samples import Samples, own_sizes
from convkit.proof._validate import prove_again
from convkit.proof._verdict import Check, Stage, Verdict, read_baselines

__all__ = [
    "DECODED",
    "GRAPH_CHECKS",
    "ILL_CONDITIONED",
    "LAYERS",
    "METRIC",
    "Beside",
    "Case",
    "Check",
    "Compute",
    "GoldenSamples",
    "ItemSizes",
    "Layers",
    "Ledger",
    "Runs",
    "Samples",
    "Stage",
    "Task",
    "TensorError",
    "TorchCompute",
    "Verdict",
    "Visit",
    "artifact_ladder",
    "baselines_of",
    "by_items",
    "check_repeated",
    "decoded_rung",
    "engine_cases",
    "failures_json",
    "feed_key",
    "judge",
    "layer_feed",
    "limits_of",
    "measure",
    "measure_baselines",
    "own_sizes",
    "patched_compute",
    "pipeline_rung",
    "prove",
    "prove_again",
    "read_baselines",
    "run_parallel",
    "rung_of",
    "score_slack",
    "shape_cases",
]
