"""The test of the proof itself: planted faults that it must catch, clean variants that it must not reject."""

from convkit.self_test._clean import Variant
from convkit.self_test._fault import Fault, Site
from convkit.self_test._faults_graph import GRAPH_FAULTS, spoilt_graphs
from convkit.self_test._outputs import OUTPUT_FAULTS, OutputFault, changes_nothing, plant_output
from convkit.self_test._report import Clean, Outcome, Planted, SelfTest
from convkit.self_test._run import FAULTS, VARIANTS, self_test
from convkit.self_test._subject import Subject

__all__ = [
    "FAULTS",
    "GRAPH_FAULTS",
    "OUTPUT_FAULTS",
    "VARIANTS",
    "Clean",
    "Fault",
    "Outcome",
    "OutputFault",
    "Planted",
    "SelfTest",
    "Site",
    "Subject",
    "Variant",
    "changes_nothing",
    "plant_output",
    "self_test",
    "spoilt_graphs",
]
