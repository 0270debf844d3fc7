"""Install plugins for a test: as objects in this process, or as a distribution that any process finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from convkit.plugins import manager

T = TypeVar("T")

TOY_MODULE = """
from support.toy import ToyPlugin
plugin = ToyPlugin()
"""


@contextmanager
def registered(plugin: T, name: str = "toy", version: str = "1.0") -> Iterator[T]:
    """Register ``plugin`` in the manager of this process while the block runs."""
    plugins = manager()
    plugins.register(plugin, name, f"convkit-{name}", version)
    try:
        yield plugin
    finally:
        plugins.unregister(name)


def write_distribution(
    folder: Path, name: str, entry_points: Mapping[str, str], modules: Mapping[str, str], version: str = "1.0"
) -> Path:
    """Write what an installer would leave: modules and a dist-info folder with entry points.

    ``entry_points`` maps names to ``module`` or ``module:object``, ``modules`` names to sources.
    With ``folder`` on ``sys.path`` (or PYTHONPATH) the distribution counts as installed.
    """
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{key} = {value}" for key, value in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[convkit]", *lines, ""]))
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    return folder


def hook_names() -> list[str]:
    """Return the names of all hooks."""
    from convkit import hookspecs

    return [name for name in vars(hookspecs) if name.startswith("convkit_")]


def names_of(items: Any) -> list[str]:
    """Return the ``name`` of each item."""
    return [item.name for item in items]
