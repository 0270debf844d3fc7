"""Python, and the packages that convkit requires."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from convkit.doctor._finding import Finding, package_version

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

__all__ = ["check_packages"]

_SUBSTITUTES = {
    "cupy-cuda13x": ("cupy-cuda12x", "cupy"),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml"),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
}
"""Packages that are imported under the same name as the one that convkit requires."""
_NOT_LISTED = {"convkit", "tensorrt"}
"""Requirements without a line of their own: the distribution itself, and what the section on the GPU tries out."""


def check_packages() -> Iterator[Finding]:
    """Yield findings on Python and on every package that convkit or one of its extras requires."""
    from packaging.requirements import Requirement

    yield from _python()
    try:
        metadata = importlib.metadata.metadata("convkit")
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install -e . in the source folder"
        yield Finding("core", "convkit", "problem", "not installed: no plugin can be found", remedy, core=True)
        return
    yield Finding("core", "convkit", "ok", metadata["Version"], core=True)
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    listed = set(_NOT_LISTED)
    for extra in ("", *sorted(set(metadata.get_all("Provides-Extra", [])) - {"dev"})):
        for requirement in sorted(requirements, key=lambda requirement: requirement.name):
            if requirement.name not in listed and _applies(requirement, extra):
                listed.add(requirement.name)
                yield _package(requirement, extra)
    if package_version("onnxruntime") and package_version("onnxruntime-gpu"):
        remedy = "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want"
        text = "installed together with onnxruntime-gpu: they overwrite each other's files"
        yield Finding("core", "onnxruntime", "problem", text, remedy)


def _python() -> Iterator[Finding]:
    version = f"{platform.python_version()}, {platform.python_implementation()}, {sys.executable}"
    yield Finding("core", "Python", "ok", version, core=True)
    yield Finding("core", "system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")


def _applies(requirement: Requirement, extra: str) -> bool:
    """Return whether a requirement applies to this system, for the package (no extra) or for one of its extras."""
    return requirement.marker.evaluate({"extra": extra}) if requirement.marker else not extra


def _package(requirement: Requirement, extra: str) -> Finding:
    section, core = ("optional", False) if extra else ("core", True)
    wanted = f"{requirement.name}{requirement.specifier}"
    names = (requirement.name, *_SUBSTITUTES.get(requirement.name, ()))
    installed = next((name for name in names if package_version(name)), None)
    if installed is None and extra:
        return Finding(section, requirement.name, "missing", "not installed", f'pip install "convkit[{extra}]"')
    if installed is None:
        return Finding(section, requirement.name, "problem", "not installed", f'pip install "{wanted}"', core=core)
    version = package_version(installed)
    if _fits(version, requirement.specifier):
        return Finding(section, installed, "ok", version, core=core)
    text = f"{version} does not fit {requirement.specifier}"
    return Finding(section, installed, "problem", text, f'pip install --upgrade "{wanted}"', core=core)


def _fits(version: str, specifier: SpecifierSet) -> bool:
    """Return whether a release fits; a pre-release counts as its release, a version that is none fits nothing."""
    from packaging.version import InvalidVersion, Version

    try:
        return specifier.contains(Version(version).base_version)
    except InvalidVersion:
        return False
