"""Proof: runners, errors, the float64 rule, the ledger and the verdict."""

from convkit.proof._cases import Case, shape_cases
from convkit.proof._ends import check_ends, save_ends
from convkit.proof._errors import TensorError, measure
from convkit.proof._evidence import load_evidence, save_evidence
from convkit.proof._ledger import Ledger
from convkit.proof._matching import MatchError, compare_results, match_detections
from convkit.proof._prove import measure_yardsticks, prove
from convkit.proof._runners import Compute, TorchCompute
from convkit.proof._samples import Samples, fit
from convkit.proof._validate import validate
from convkit.proof._verdict import Check, Stage, Verdict

__all__ = [
    "Case",
    "Check",
    "Compute",
    "Ledger",
    "MatchError",
    "Samples",
    "Stage",
    "TensorError",
    "TorchCompute",
    "Verdict",
    "check_ends",
    "compare_results",
    "fit",
    "load_evidence",
    "match_detections",
    "measure",
    "measure_yardsticks",
    "prove",
    "save_ends",
    "save_evidence",
    "shape_cases",
    "validate",
]
