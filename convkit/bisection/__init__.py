"""Where two runners of a model part: what each node errs by itself, and which must stay in float32."""

from convkit.bisection._artifact import DEFAULT_SAMPLES, bisect_artifact, find_runner
from convkit.bisection._auto import DEFAULT_TRIALS, Judge, Kept, Limits, find_kept, results_judge, search_artifact
from convkit.bisection._compare import DEFAULT_SHARES, compare_runners
from convkit.bisection._errors import Bisection, Decision, Figures, NodeErrors
from convkit.bisection._run import Runner

__all__ = [
    "DEFAULT_SAMPLES",
    "DEFAULT_SHARES",
    "DEFAULT_TRIALS",
    "Bisection",
    "Decision",
    "Figures",
    "Judge",
    "Kept",
    "Limits",
    "NodeErrors",
    "Runner",
    "bisect_artifact",
    "compare_runners",
    "find_kept",
    "find_runner",
    "results_judge",
    "search_artifact",
]
