"""What this machine has for convkit, and what known errors of other tools mean: the work of ``convkit doctor``.

Importing this package is light. Versions come from the packages' metadata, and a program that may crash or hang runs in
a process of its own.
"""

from collections.abc import Iterable

from convkit.doctor._finding import Finding
from convkit.doctor._gpu import check_gpu
from convkit.doctor._known_errors import KnownError, KnownErrorMatch, explain, search
from convkit.doctor._machine import check_machine
from convkit.doctor._packages import check_packages
from convkit.doctor._plugins import check_engines, check_plugins
from convkit.doctor._recommendations import Recommendation, check_recommendations, store, stored_recommendations

__all__ = [
    "Finding",
    "KnownError",
    "KnownErrorMatch",
    "Recommendation",
    "check_engines",
    "check_gpu",
    "check_machine",
    "check_packages",
    "check_plugins",
    "check_recommendations",
    "examine",
    "explain",
    "search",
    "store",
    "stored_recommendations",
    "works",
]


def examine() -> list[Finding]:
    """Return the findings on Python, packages, plugins, engines, the GPU and the machine."""
    checks = (check_packages, check_plugins, check_engines, check_recommendations, check_gpu, check_machine)
    return [finding for check in checks for finding in check()]


def works(findings: Iterable[Finding]) -> bool:
    """Return whether convkit can convert here: nothing that it cannot do without has a problem."""
    return not any(finding.core and finding.state == "problem" for finding in findings)
