"""What this machine has for convkit, and what known error texts mean: the work behind ``convkit doctor``.

Nothing heavy is imported: versions come from the packages' metadata, and what may crash or hang is
tried in a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from convkit.backends import Backend
from convkit.cuda import cache_folder
from convkit.doctor._probes import cuda_driver, memory, package_version, run_program, torch_build
from convkit.doctor._remedy import Remedy, diagnose
from convkit.errors import PluginError
from convkit.plugins import manager

__all__ = ["Finding", "Recognised", "examine", "recognise", "works"]

PYTHON = (3, 10)
SPARE_MEMORY = 3 * 10**9
"""Bytes that the conversion of a full-size network may take at its peak."""
SPARE_DISK = 10**9

_SUBSTITUTES = {
    "cupy-cuda13x": ("cupy-cuda12x", "cupy"),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml"),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
}
"""Packages that are imported under the same name as the one that convkit asks for."""
_OTHERS = {"convkit", "tensorrt"}
"""Requirements that are no line of their own: the distribution itself, and what the GPU section tries out."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    ``state`` is ``ok``, ``missing`` (something optional) or ``problem``; ``remedy`` says what to do
    about the latter two. Without what is ``core`` nothing can be converted.
    """

    section: str
    name: str
    state: str
    text: str
    remedy: str = ""
    core: bool = False


@dataclass(frozen=True)
class Recognised:
    """A known error: the line that gave it away, and the remedy with the plugin that knows it."""

    plugin: str
    line: str
    remedy: Remedy


def examine() -> list[Finding]:
    """Look at Python, packages, plugins, engines, the GPU and the machine."""
    return [*_python(), *_packages(), *_plugins(), *_backends(), *_gpu(), *_tensorrt(), *_machine()]


def works(findings: Iterable[Finding]) -> bool:
    """Tell whether nothing that convkit cannot do without has a problem."""
    return not any(finding.core and finding.state == "problem" for finding in findings)


def recognise(text: str) -> list[Recognised]:
    """Return the known errors in ``text``, in the order in which they stand there.

    Of remedies that recognise the same line only the first is returned: in the order of the plugins,
    of which the core is the last, and within a plugin in the order of its table.

    Raises:
        PluginError: the pattern of a remedy is no regular expression.
    """
    found: dict[str, Recognised] = {}
    for plugin, remedies in manager().gather("convkit_remedies").items():
        try:
            matches = diagnose(text, remedies)
        except re.error as error:
            raise PluginError(
                f"A remedy of plugin {plugin!r} has a pattern that is no regular expression: {error}.",
                hint=f"Leave the plugin out with --no-plugin {plugin}, and tell its author.",
            ) from error
        for remedy, line in matches:
            found.setdefault(line, Recognised(plugin, line, remedy))
    return sorted(found.values(), key=lambda known: text.index(known.line))


def _python() -> Iterator[Finding]:
    version = f"{platform.python_version()}, {platform.python_implementation()}, {sys.executable}"
    if sys.version_info[:2] >= PYTHON:
        yield Finding("core", "Python", "ok", version, core=True)
    else:
        wanted = ".".join(map(str, PYTHON))
        yield Finding("core", "Python", "problem", version, f"Use Python {wanted} or newer.", core=True)
    yield Finding("core", "system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")


def _packages() -> Iterator[Finding]:
    try:
        version = importlib.metadata.version("convkit")
        requirements = importlib.metadata.requires("convkit") or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install -e . in the source folder"
        yield Finding("core", "convkit", "problem", "not installed: no plugin can be found", remedy, core=True)
        return
    yield Finding("core", "convkit", "ok", version, core=True)
    parsed = [_Requirement.parse(line) for line in requirements]
    wanted = {entry.name: entry for entry in reversed(parsed) if entry.applies and entry.extra != "dev"}
    for requirement in sorted(wanted.values(), key=lambda entry: (bool(entry.extra), entry.name)):
        if requirement.name not in _OTHERS:
            yield requirement.check()
    if package_version("onnxruntime") and package_version("onnxruntime-gpu"):
        remedy = "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want"
        text = "installed together with onnxruntime-gpu: they overwrite each other's files"
        yield Finding("core", "onnxruntime", "problem", text, remedy)


@dataclass(frozen=True)
class _Requirement:
    """One line of a distribution's requirements."""

    name: str
    minimum: str
    extra: str
    applies: bool

    @classmethod
    def parse(cls, line: str) -> _Requirement:
        specification, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", specification)
        minimum = re.search(r">=\s*([\w.]+)", specification)
        extra = re.search(r"extra == ['\"]([\w-]+)", marker)
        system = re.search(r"sys_platform == ['\"](\w+)", marker)
        python = re.search(r"python_version < ['\"]3\.(\d+)", marker)
        return cls(
            name=name.group() if name else "",
            minimum=minimum.group(1) if minimum else "",
            extra=extra.group(1) if extra else "",
            applies=(not system or system.group(1) == sys.platform)
            and (not python or sys.version_info[1] < int(python.group(1))),
        )

    def check(self) -> Finding:
        section, core = ("optional", False) if self.extra else ("core", True)
        wanted = f"{self.name}>={self.minimum}" if self.minimum else self.name
        names = (self.name, *_SUBSTITUTES.get(self.name, ()))
        installed = next((name for name in names if package_version(name)), None)
        if installed is None and self.extra:
            return Finding(section, self.name, "missing", "not installed", f'pip install "convkit[{self.extra}]"')
        if installed is None:
            remedy = f'pip install "{wanted}"'
            return Finding(section, self.name, "problem", "not installed", remedy, core=core)
        version = package_version(installed)
        if _numbers(version) < _numbers(self.minimum):
            remedy = f'pip install --upgrade "{wanted}"'
            return Finding(section, installed, "problem", f"{version} is too old", remedy, core=core)
        build = f" ({torch_build()})" if installed == "torch" else ""
        return Finding(section, installed, "ok", version + build, core=core)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version before any local part: ``2.13+cpu`` gives (2, 13, 0)."""
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
    return tuple([*numbers, 0, 0, 0][:3])


def _plugins() -> Iterator[Finding]:
    infos = manager().infos()
    names = [i.name if i.distribution == "convkit" else f"{i.name} ({i.distribution} {i.version})" for i in infos]
    yield Finding("plugins", "loaded", "ok", ", ".join(names) or "none")
    for broken in manager().broken:
        own = broken.distribution == "convkit"
        update = f"pip install --upgrade {broken.distribution}"
        remedy = update if own else f"{update}, or leave it out: --no-plugin {broken.name}"
        yield Finding("plugins", broken.name, "problem", f"left out: {broken.reason}", remedy, core=own)


def _backends() -> Iterator[Finding]:
    try:
        backends = [backend for found in manager().gather("convkit_backends").values() for backend in found]
    except PluginError as error:
        yield Finding("engines", "any", "problem", error.message, error.hint, core=True)
        return
    findings = [_backend(backend) for backend in backends]
    yield from findings
    if all(finding.state != "ok" for finding in findings):
        remedy = "pip install --force-reinstall onnxruntime"
        yield Finding("engines", "any", "problem", "no engine runs here: nothing can be proved", remedy, core=True)


def _backend(backend: Backend) -> Finding:
    try:
        problem = backend.problem()
        if problem:
            return Finding("engines", backend.name, "missing", problem)
        described = backend.describe()
    except Exception as error:
        # A library that does not load may raise anything; that is what is reported here.
        return Finding("engines", backend.name, "problem", f"{type(error).__name__}: {error}".splitlines()[0])
    text = "; ".join(value if key == "version" else f"{key} {value}" for key, value in described.items())
    return Finding("engines", backend.name, "ok", text or backend.summary)


def _gpu() -> Iterator[Finding]:
    yield _nvidia_smi()
    version = cuda_driver()
    if version is None:
        yield Finding("GPU", "CUDA driver", "missing", "no driver library; convkit converts and proves on the CPU")
    elif version == (0, 0):
        text = "the library loads but does not answer"
        yield Finding("GPU", "CUDA driver", "problem", text, "Reinstall the NVIDIA driver and restart.")
    else:
        yield Finding("GPU", "CUDA driver", "ok", f"up to CUDA {version[0]}.{version[1]}")


def _nvidia_smi() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("GPU", "NVIDIA GPU", "missing", "none found; convkit converts and proves on the CPU")
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    code, output = run_program(query, timeout=10)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if code == 0 and lines:
        return Finding("GPU", "NVIDIA GPU", "ok", "; ".join(", driver ".join(line.rsplit(", ", 1)) for line in lines))
    text = lines[0] if lines else f"nvidia-smi failed with code {code}"
    return Finding("GPU", "NVIDIA GPU", "problem", text, "Reboot; if that does not help, reinstall the NVIDIA driver.")


def _tensorrt() -> Iterator[Finding]:
    if importlib.util.find_spec("tensorrt") is None:
        remedy = 'pip install "convkit[tensorrt]"' if sys.platform == "linux" else ""
        yield Finding("GPU", "TensorRT", "missing", "not installed", remedy)
        return
    code, output = run_program([sys.executable, "-c", "import tensorrt; print(tensorrt.__version__)"], timeout=60)
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {code}"
    if code != 0:
        remedy = "`convkit doctor < FILE` explains known errors; the library must be on LD_LIBRARY_PATH"
        yield Finding("GPU", "TensorRT", "problem", f"installed but does not load: {last}", remedy)
        return
    yield Finding("GPU", "TensorRT", "ok", last)
    if _numbers(last) < (11,) and _numbers(package_version("numpy")) >= (2, 4):
        text = f"TensorRT {last} cannot read the attributes of Python plugins with numpy {package_version('numpy')}"
        yield Finding("GPU", "numpy", "problem", text, 'pip install "numpy<2.4", or TensorRT 11')


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("machine", "cores", "ok", str(cores))
    known = memory()
    if known is not None:
        total, free = known
        text = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free"
        enough = free >= SPARE_MEMORY
        remedy = "" if enough else f"Converting a large network may take {SPARE_MEMORY / 1e9:.0f} GB: close programs."
        yield Finding("machine", "memory", "ok" if enough else "problem", text, remedy)
    for name, folder in (("this folder", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        text = f"{folder}, {free / 1e9:.1f} GB free"
        if not os.access(folder, os.W_OK):
            yield Finding("machine", name, "problem", f"{text}, not writable", "Give an --output elsewhere.")
        elif free < SPARE_DISK:
            yield Finding("machine", name, "problem", text, "Free some space.")
        else:
            yield Finding("machine", name, "ok", text)
    yield _kernel_cache()


def _kernel_cache() -> Finding:
    folder = cache_folder()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return Finding("machine", "kernel cache", "ok", str(folder))
    text = f"{folder} cannot be written: kernels are compiled anew by each process"
    return Finding("machine", "kernel cache", "problem", text, "Set CONVKIT_CACHE to a folder that can be written.")
