"""Proof: cases, metrics, the float64 rule, the ledger, golden samples and the verdict."""

from convkit.proof._cases import Case, ItemSizes, engine_cases, shape_cases
from convkit.proof._computes import Compute, TorchCompute, by_items, feed_key, patched_compute, run_parallel
from convkit.proof._golden import GoldenSamples
from convkit.proof._ledger import Ledger
from convkit.proof._metrics import TensorError, measure
from convkit.proof._prove import measure_baselines, prove
from convkit.proof._rule import DECODED, ILL_CONDITIONED, baselines_of, judge, limits_of
from convkit.proof._samples import Samples
from convkit.proof._validate import validate
from convkit.proof._verdict import Check, Stage, Verdict, read_baselines

__all__ = [
    "DECODED",
    "ILL_CONDITIONED",
    "Case",
    "Check",
    "Compute",
    "GoldenSamples",
    "ItemSizes",
    "Ledger",
    "Samples",
    "Stage",
    "TensorError",
    "TorchCompute",
    "Verdict",
    "baselines_of",
    "by_items",
    "engine_cases",
    "feed_key",
    "judge",
    "limits_of",
    "measure",
    "measure_baselines",
    "patched_compute",
    "prove",
    "read_baselines",
    "run_parallel",
    "shape_cases",
    "validate",
]
