"""The plugins that are installed, and the engines that they offer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from convkit.doctor._finding import Finding
from convkit.errors import PluginError
from convkit.plugins import manager

if TYPE_CHECKING:
    from convkit.backends import Backend

__all__ = ["check_engines", "check_plugins"]


def check_plugins() -> Iterator[Finding]:
    """Yield one finding for the plugins that are loaded, and one for each that is not or that has a fault."""
    infos = manager().infos()
    names = [i.name if i.distribution == "convkit" else f"{i.name} ({i.distribution} {i.version})" for i in infos]
    yield Finding("plugins", "loaded", "ok", ", ".join(names) or "none")
    for broken in manager().broken:
        own = broken.distribution == "convkit"
        update = f"pip install --upgrade {broken.distribution}"
        remedy = update if own else f"{update}, or leave it out: --no-plugin {broken.name}"
        yield Finding("plugins", broken.name, "problem", f"left out: {broken.reason}", remedy, core=own)
    for info in infos:
        for text in info.warnings():
            yield Finding("plugins", info.name, "problem", text, f"pip install --upgrade {info.distribution}")


def check_engines() -> Iterator[Finding]:
    """Yield a finding for each engine, and a problem where none runs on the CPU."""
    try:
        backends = [backend for found in manager().gather("convkit_backends").values() for backend in found]
    except PluginError as error:
        yield Finding("engines", "any", "problem", error.message, error.hint, core=True)
        return
    findings = [_engine(backend) for backend in backends]
    yield from findings
    if all(finding.state != "ok" for finding in findings):
        remedy = "pip install --force-reinstall onnxruntime"
        yield Finding("engines", "any", "problem", "no engine runs here: nothing can be proved", remedy, core=True)


def _engine(backend: Backend) -> Finding:
    try:
        problem = backend.problem()
        if problem:
            return Finding("engines", backend.name, "missing", problem, backend.remedy)
        described = backend.describe()
    except Exception as error:
        # A library that does not load may raise anything; that is what is reported here.
        return Finding("engines", backend.name, "problem", f"{type(error).__name__}: {error}".splitlines()[0])
    text = "; ".join(value if key == "version" else f"{key} {value}" for key, value in described.items())
    return Finding("engines", backend.name, "ok", text or backend.summary)
