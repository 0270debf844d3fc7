"""The two flavours of TensorRT, their packages and the compute capabilities that they build for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass

from convkit.errors import EnvironmentProblem, SettingError, suggest

__all__ = ["FLAVOURS", "Flavour", "find_flavour"]


@dataclass(frozen=True)
class Flavour:
    """One flavour of TensorRT.

    ``module`` is the import name of the Python bindings, ``libraries`` the package of shared libraries beside them;
    ``files`` are those libraries, the parser last. ``link`` is the unversioned name under which the parser opens the
    first of them when it meets a plugin; the wheels of TensorRT-RTX lack it, and then the parser aborts the process.
    ``targets`` are the compute capabilities that it builds for without a GPU, ``default_targets`` those of a portable
    engine. Both are empty where a build needs the GPU that it is for. ``magic`` are the first bytes of an engine, empty
    where they are not known.
    """

    name: str
    title: str
    module: str
    libraries: str
    distributions: tuple[str, ...]
    files: tuple[str, ...] = ()
    link: str = ""
    targets: tuple[str, ...] = ()
    default_targets: tuple[str, ...] = ()
    magic: bytes = b""

    def problem(self) -> str:
        """Return why this flavour cannot be used here, as far as that is seen without loading it; else an empty string.

        Libraries without the bindings count as not installed.
        """
        if importlib.util.find_spec(self.module) is None:
            return f"{self.title} is not installed: there is no Python module {self.module}."
        if importlib.util.find_spec(self.libraries) is None:
            return (
                f"The Python bindings of {self.title} are installed without its libraries"
                f" (there is no package {self.libraries})."
            )
        return ""

    def require(self) -> None:
        """Raise `EnvironmentProblem` if `problem` finds one."""
        problem = self.problem()
        if problem:
            raise EnvironmentProblem(problem, hint=self.remedy)

    @property
    def remedy(self) -> str:
        """How to install it."""
        return f'`pip install "convkit[{self.name}]"` installs bindings and libraries of one version.'

    @property
    def version(self) -> str:
        """The version of the installed bindings, empty where there are none."""
        found = self.versions()
        return next((version for name, version in found.items() if name.endswith("-bindings")), "")

    def versions(self) -> dict[str, str]:
        """Return the version of every installed distribution of this flavour."""
        found = {}
        for name in self.distributions:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour(
            "tensorrt-rtx",
            "TensorRT-RTX",
            module="tensorrt_rtx_bindings",
            libraries="tensorrt_rtx_libs",
            distributions=("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"),
            files=("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
            link="libtensorrt_rtx.so",
            targets=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
            default_targets=("sm80", "sm86", "sm89", "sm120"),
            magic=b"vtrt",
        ),
        Flavour(
            "tensorrt",
            "TensorRT",
            module="tensorrt_bindings",
            libraries="tensorrt_libs",
            distributions=("tensorrt", "tensorrt-cu13-bindings", "tensorrt-cu13-libs", "tensorrt-cu12-bindings",
                           "tensorrt-cu12-libs"),
        ),
    )
}  # fmt: skip


def find_flavour(name: str) -> Flavour:
    """Return the flavour of that name; raise `SettingError` for any other."""
    if name not in FLAVOURS:
        raise SettingError(
            f"There is no TensorRT backend {name!r}.", hint=f"{suggest(name, FLAVOURS)} Known: {', '.join(FLAVOURS)}."
        )
    return FLAVOURS[name]
