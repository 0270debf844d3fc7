"""Trials by faults: what is hostile or damaged, each case in a process of its own with bounds of time and memory."""

from support.trials._child import Outcome, Trial, in_child
from support.trials._disk import disk_cases, together_cases
from support.trials._documents import document_cases, settings_cases
from support.trials._graphs import graph_cases
from support.trials._images import image_cases
from support.trials._weights import weights_cases

__all__ = [
    "Outcome",
    "Trial",
    "disk_cases",
    "document_cases",
    "graph_cases",
    "image_cases",
    "in_child",
    "settings_cases",
    "together_cases",
    "weights_cases",
]
