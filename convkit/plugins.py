"""The plugin manager: discovery by entry point, blocking, tracing, and whose plugin is whose."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pluggy

from convkit import hookspecs
from convkit.errors import AdapterNotFoundError, ConvkitError, PluginError, suggest

if TYPE_CHECKING:
    from convkit.model import Adapter

__all__ = ["BrokenPlugin", "PluginInfo", "PluginManager", "manager"]

GROUP = "convkit"
LOAD_VARIABLE = "CONVKIT_LOAD_PLUGINS"
TRACE_VARIABLE = "CONVKIT_TRACE_PLUGINS"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be loaded, and why."""

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True)
class PluginInfo:
    """A loaded plugin: its entry-point name, where it comes from, and the hooks it implements."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()


@dataclass
class PluginManager:
    """The plugins of one process, on top of a `pluggy.PluginManager`.

    ``blocked`` names plugins that are left out. The environment variable CONVKIT_LOAD_PLUGINS, a
    comma-separated list of names, restricts loading to these (empty: none).
    CONVKIT_TRACE_PLUGINS=1 prints every hook call to stderr.
    """

    blocked: frozenset[str] = frozenset()
    broken: list[BrokenPlugin] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pluggy = pluggy.PluginManager("convkit")
        self.pluggy.add_hookspecs(hookspecs)
        self._origins: dict[str, tuple[str, str]] = {}
        if os.environ.get(TRACE_VARIABLE, "0") not in ("", "0"):
            self.pluggy.add_hookcall_monitoring(_trace_call, _trace_result)

    @property
    def hook(self) -> Any:
        """The hook callers, ``manager.hook.convkit_adapters()`` and so on."""
        return self.pluggy.hook

    def discover(self) -> None:
        """Load every plugin named by an entry point in the group ``convkit``.

        A plugin that fails to import, or implements a hook that does not exist, is taken out again
        and reported in ``broken``; the others work on.
        """
        chosen = os.environ.get(LOAD_VARIABLE)
        only = None if chosen is None else {name.strip() for name in chosen.split(",") if name.strip()}
        points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)
        unknown = (self.blocked | (only or set())) - {point.name for point in points}
        if unknown:
            name = min(unknown)
            raise PluginError(
                f"There is no plugin {name!r} to {'leave out' if name in self.blocked else 'load'}.",
                hint=suggest(name, (point.name for point in points)) or "`convkit plugins` lists the installed ones.",
            )
        for point in points:
            if point.name in self.blocked or (only is not None and point.name not in only):
                continue
            distribution = point.dist.name if point.dist else "?"
            version = point.dist.version if point.dist else "?"
            try:
                self.register(point.load(), point.name, distribution, version)
            except (Exception, SystemExit) as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self.broken.append(BrokenPlugin(point.name, distribution, reason))

    def register(self, plugin: Any, name: str, distribution: str = "", version: str = "") -> None:
        """Register a plugin object and check its hooks against the specification.

        Raises:
            PluginError: it implements a hook that does not exist, or asks for an argument that a hook lacks.
        """
        try:
            self.pluggy.register(plugin, name)
            self.pluggy.check_pending()
        except pluggy.PluginValidationError as error:
            if self.pluggy.has_plugin(name):
                self.pluggy.unregister(name=name)
            known = [hook for hook in dir(hookspecs) if hook.startswith("convkit_")]
            unknown = [hook for hook in dir(plugin) if hook.startswith("convkit_") and hook not in known]
            if unknown:
                raise PluginError(
                    f"Plugin {name!r} implements an unknown hook: {', '.join(unknown)}.",
                    hint=suggest(unknown[0], known) or "See docs/hooks.md.",
                ) from error
            raise PluginError(
                f"Plugin {name!r} does not fit a hook: {' '.join(str(error).split())}.", hint="See docs/hooks.md."
            ) from error
        self._origins[name] = (distribution, version)

    def unregister(self, name: str) -> None:
        """Take a plugin out again."""
        self.pluggy.unregister(name=name)
        self._origins.pop(name, None)

    def infos(self) -> list[PluginInfo]:
        """Return the loaded plugins by name."""
        return [
            PluginInfo(
                name,
                *self._origins[name],
                hooks=tuple(sorted(caller.name for caller in self.pluggy.get_hookcallers(plugin) or ())),
            )
            for name, plugin in sorted(self.pluggy.list_name_plugin())
            if plugin is not None and name in self._origins
        ]

    def adapters(self) -> dict[str, Adapter]:
        """Return every adapter by name, the first plugin winning a name that two offer."""
        table: dict[str, Adapter] = {}
        for adapters in self.gather("convkit_adapters").values():
            for adapter in adapters:
                table.setdefault(adapter.name, adapter)
        return dict(sorted(table.items()))

    def adapter(self, name: str) -> Adapter:
        """Return one adapter.

        Raises:
            AdapterNotFoundError: no plugin offers it.
        """
        table = self.adapters()
        if name not in table:
            broken = f" These plugins failed to load: {', '.join(b.name for b in self.broken)}." if self.broken else ""
            raise AdapterNotFoundError(
                f"There is no adapter {name!r}.",
                hint=f"{suggest(name, table)} Installed: {', '.join(table) or 'none'}.{broken}"
                f" `convkit new adapter NAME` writes a new one.".strip(),
            )
        return table[name]

    def gather(self, hook: str, **arguments: Any) -> dict[str, list[Any]]:
        """Call a hook that returns many things; return what each plugin gave, in call order.

        Mappings are returned as their items.

        Raises:
            PluginError: a plugin's hook raised something that is not meant for people.
        """
        results: dict[str, list[Any]] = {}
        plugins = {plugin for _, plugin in self.pluggy.list_name_plugin() if plugin is not None}
        for implementation in reversed(getattr(self.hook, hook).get_hookimpls()):
            others = plugins - {implementation.plugin}
            name = implementation.plugin_name
            try:
                for value in self.pluggy.subset_hook_caller(hook, others)(**arguments):
                    results.setdefault(name, []).extend(value.items() if isinstance(value, Mapping) else value)
            except ConvkitError:
                raise
            except Exception as error:
                raise PluginError(
                    f"Plugin {name!r} failed in {hook}: {type(error).__name__}: {error}".splitlines()[0],
                    hint=f"Update it, or leave it out with --no-plugin {name}.",
                ) from error
        return results

    def first(self, hook: str, **arguments: Any) -> Any:
        """Call a hook that returns one thing; return the first answer that is not None, or None."""
        return getattr(self.hook, hook)(**arguments)


@lru_cache(maxsize=1)
def _default(blocked: frozenset[str]) -> PluginManager:
    instance = PluginManager(blocked=blocked)
    instance.discover()
    return instance


_blocked: frozenset[str] = frozenset()


def manager() -> PluginManager:
    """Return the plugin manager of this process; the first call loads the plugins."""
    return _default(_blocked)


def block(names: Iterable[str]) -> None:
    """Leave out these plugins when the manager is made."""
    global _blocked
    _blocked = frozenset(names)
    _default.cache_clear()


def _trace_call(hook_name: str, hook_impls: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    names = ", ".join(implementation.plugin_name for implementation in reversed(hook_impls)) or "nobody"
    arguments = ", ".join(f"{key}={_short(value)}" for key, value in kwargs.items())
    sys.stderr.write(f"[hook] {hook_name}({arguments}) -> {names}\n")


def _trace_result(outcome: Any, hook_name: str, hook_impls: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    del hook_impls, kwargs
    problem = outcome.exception
    sys.stderr.write(f"[hook] {hook_name} = {_short(problem if problem else outcome.get_result())}\n")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
