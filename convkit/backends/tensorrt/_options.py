"""What a user may set for a build: ``--set workspace=2048``, ``--set optimization-level=5`` …"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from convkit.backends.tensorrt._flavour import Flavour
from convkit.errors import SettingError
from convkit.model import Option

__all__ = ["OPTIONS", "BuildSettings", "read_settings"]

HARDWARE = ("none", "ampere-plus", "same-compute-capability")
OPTIONS = (
    Option("workspace", 0, "TensorRT: the most scratch memory of an engine in MiB; 0 leaves it to TensorRT"),
    Option("optimization-level", -1, "TensorRT: how hard the builder tries, 0 to 5; -1 leaves it to TensorRT"),
    Option("hardware-compatibility", "none", "TensorRT (not RTX): other GPUs that the engine runs on", HARDWARE),
    Option("version-compatible", False, "TensorRT (not RTX): an engine that later versions run as well"),
    Option("timing-cache", True, "TensorRT (not RTX): keep the measured times of kernels for the next build"),
)
LEVELS = range(6)


@dataclass(frozen=True)
class BuildSettings:
    """How an engine is built.

    ``workspace`` is in MiB and 0 for the library's own limit; ``optimization_level`` is None for the library's own;
    ``hardware_compatibility`` is one of `HARDWARE`.
    """

    workspace: int = 0
    optimization_level: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    timing_cache: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def read_settings(options: Mapping[str, Any], flavour: Flavour) -> BuildSettings:
    """Return the settings that ``options`` give a flavour; what is left out has its default.

    Raises:
        SettingError: a value is out of range, or the flavour has no such setting.
    """
    given = {option.name: options.get(option.name, option.default) for option in OPTIONS}
    workspace, level = given["workspace"], given["optimization-level"]
    if workspace < 0:
        raise SettingError(f"workspace cannot be {workspace}.", hint="Give MiB, or 0 for TensorRT's own limit.")
    if level != -1 and level not in LEVELS:
        raise SettingError(f"optimization-level cannot be {level}.", hint=f"Give {LEVELS[0]} to {LEVELS[-1]}.")
    if flavour.targets:  # engines for named compute capabilities, compiled further on the GPU
        for name in ("hardware-compatibility", "version-compatible"):
            if given[name] not in ("none", False):
                raise SettingError(
                    f"{flavour.title} has no setting {name}.",
                    hint="--target names the GPUs that it is for; build again for another version.",
                )
    return BuildSettings(
        workspace,
        None if level == -1 else level,
        given["hardware-compatibility"],
        given["version-compatible"],
        given["timing-cache"] and not flavour.targets,
    )
