"""Checks of this machine, and known errors of other tools with their remedies."""

from convkit.doctor._checks import Finding, Recognised, examine, recognise, works
from convkit.doctor._probes import cuda_driver, memory, package_version, run_program, torch_build
from convkit.doctor._remedy import Remedy, diagnose

__all__ = [
    "Finding",
    "Recognised",
    "Remedy",
    "cuda_driver",
    "diagnose",
    "examine",
    "memory",
    "package_version",
    "recognise",
    "run_program",
    "torch_build",
    "works",
]
