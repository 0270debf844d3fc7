"""Trials by faults: what is hostile or damaged, each case in a process of its own with bounds of time and memory."""

from support.trials._child import SECONDS, Outcome, Trial, in_child
from support.trials._conversions import conversion_cases
from support.trials._disk import disk_cases
from support.trials._documents import document_cases, settings_cases
from support.trials._graphs import graph_cases
from support.trials._images import image_cases
from support.trials._parts import input_cases, part_cases
from support.trials._small import small_artifact
from support.trials._together import together_cases
from support.trials._weights import weights_cases

__all__ = [
    "SECONDS",
    "Outcome",
    "Trial",
    "conversion_cases",
    "disk_cases",
    "document_cases",
    "graph_cases",
    "image_cases",
    "in_child",
    "input_cases",
    "part_cases",
    "settings_cases",
    "small_artifact",
    "together_cases",
    "weights_cases",
]
