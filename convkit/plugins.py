"""The plugin manager: plugins found by entry point, their hooks checked and called, their errors named."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import os
import sys
import warnings
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pluggy

from convkit import hookspecs
from convkit.errors import AdapterNotFoundError, ConvkitError, PluginError, SettingError, suggest

if TYPE_CHECKING:
    from convkit.model import Adapter

__all__ = ["BrokenPlugin", "PluginInfo", "PluginManager", "PluginWarning", "block", "hook_names", "manager"]

GROUP = "convkit"
PREFIX = "convkit_"
LOAD_VARIABLE = "CONVKIT_LOAD_PLUGINS"
TRACE_VARIABLE = "CONVKIT_TRACE_PLUGINS"


class PluginWarning(UserWarning):
    """A plugin works, but not as its author will expect."""


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that could not be loaded, and why."""

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True)
class PluginInfo:
    """A loaded plugin: its entry-point name, its distribution, and the hooks that it implements.

    ``unmarked`` are its functions that are named like hooks but lack ``@hookimpl``, so that nothing calls them.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()

    def warnings(self) -> list[str]:
        """Return a sentence for each unmarked function."""
        return [f"{name} of plugin {self.name!r} is never called: {_why_not_called(name)}" for name in self.unmarked]


@dataclass
class PluginManager:
    """The plugins of one process, on top of a `pluggy.PluginManager`.

    ``blocked`` names plugins that are left out; ``broken`` are those that failed to load. The environment variable
    CONVKIT_LOAD_PLUGINS, a comma-separated list of names, restricts loading to these (empty: none).
    CONVKIT_TRACE_PLUGINS=1 prints every hook call to stderr.
    """

    blocked: frozenset[str] = frozenset()
    broken: list[BrokenPlugin] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pluggy = pluggy.PluginManager("convkit")
        self.pluggy.add_hookspecs(hookspecs)
        self._infos: dict[str, PluginInfo] = {}
        self._origins: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._traced = os.environ.get(TRACE_VARIABLE, "0") not in ("", "0")

    def discover(self) -> None:
        """Load every plugin that an entry point of the group ``convkit`` names.

        A plugin that fails to import, or does not fit the hooks, is left out and listed in ``broken``.

        Raises:
            SettingError: a plugin that is to be left out or loaded does not exist.
        """
        chosen = os.environ.get(LOAD_VARIABLE)
        only = None if chosen is None else {name.strip() for name in chosen.split(",") if name.strip()}
        points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)
        unknown = (self.blocked | (only or set())) - {point.name for point in points}
        if unknown:
            name = min(unknown)
            raise SettingError(
                f"There is no plugin {name!r} to {'leave out' if name in self.blocked else 'load'}.",
                hint=suggest(name, (point.name for point in points)) or "`convkit plugins` lists the installed ones.",
            )
        for point in points:
            if point.name in self.blocked or (only is not None and point.name not in only):
                continue
            distribution, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
            try:
                self.register(point.load(), point.name, distribution, version)
            except ConvkitError as error:
                self.broken.append(BrokenPlugin(point.name, distribution, f"{error.message} {error.hint}"))
            except (Exception, SystemExit) as error:
                self.broken.append(BrokenPlugin(point.name, distribution, _first_line(error)))

    def register(self, plugin: Any, name: str, distribution: str = "", version: str = "") -> None:
        """Register a plugin object and check its hooks against the specification.

        Raises:
            PluginError: it implements a hook that does not exist, asks for an argument that a hook lacks, or wraps one.
        """
        try:
            self.pluggy.register(plugin, name)
            self.pluggy.check_pending()
        except pluggy.PluginValidationError as error:
            self._forget(name)
            known = hook_names()
            marked = [hook for hook in dir(plugin) if self.pluggy.parse_hookimpl_opts(plugin, hook) is not None]
            unknown = [hook for hook in marked if hook not in known]
            if unknown:
                raise PluginError(
                    f"Plugin {name!r} implements an unknown hook: {', '.join(unknown)}.",
                    hint=suggest(unknown[0], known) or "See docs/hooks.md.",
                ) from error
            raise PluginError(
                f"Plugin {name!r} does not fit a hook: {' '.join(str(error).split())}.", hint="See docs/hooks.md."
            ) from error
        callers = self.pluggy.get_hookcallers(plugin) or []
        implementations = [each for caller in callers for each in caller.get_hookimpls() if each.plugin is plugin]
        if any(each.hookwrapper or each.wrapper for each in implementations):
            self._forget(name)
            raise PluginError(f"Plugin {name!r} wraps a hook, which convkit does not support.", hint="Implement it.")
        hooks = tuple(sorted(caller.name for caller in callers))
        called = {each.function.__name__ for each in implementations}
        unmarked = tuple(each for each in _functions_named_like_hooks(plugin) if each not in called)
        self._infos[name] = PluginInfo(name, distribution, version, hooks, unmarked)

    def unregister(self, name: str) -> None:
        """Take a plugin out again."""
        self.pluggy.unregister(name=name)
        self._infos.pop(name, None)

    def infos(self) -> list[PluginInfo]:
        """Return the loaded plugins by name."""
        return [self._infos[name] for name in sorted(self._infos)]

    def adapters(self) -> dict[str, Adapter]:
        """Return every adapter by name; of a name that several plugins offer, the one of the first plugin called."""
        return {name: offers[0][1] for name, offers in self._offers().items()}

    def adapter(self, name: str) -> Adapter:
        """Return one adapter, with a `PluginWarning` if several plugins offer that name.

        Raises:
            AdapterNotFoundError: no plugin offers it.
        """
        table = self._offers()
        self._check_offered(name, table)
        for text in _clash(name, [plugin for plugin, _ in table[name]]):
            warnings.warn(text, PluginWarning, stacklevel=2)
        return table[name][0][1]

    def owner(self, adapter: str) -> PluginInfo:
        """Return the plugin whose adapter of this name is used.

        Raises:
            AdapterNotFoundError: no plugin offers it.
        """
        table = self._offers()
        self._check_offered(adapter, table)
        return self._infos[table[adapter][0][0]]

    def clashes(self) -> list[str]:
        """Return a sentence for each adapter name that several plugins offer."""
        offers = self._offers().items()
        return [text for name, pairs in offers for text in _clash(name, [plugin for plugin, _ in pairs])]

    def gather(self, hook: str, of: type | tuple[type, ...] = object, **arguments: Any) -> dict[str, list[Any]]:
        """Call a hook that returns many things; return what each plugin gave, in call order.

        Mappings are returned as their items. ``of`` is what each thing has to be an instance of.

        Raises:
            PluginError: a plugin's hook raised something that is not meant for people, or gave other things.
        """
        results: dict[str, list[Any]] = {}
        for plugin, values in self._call(hook, arguments):
            for value in values:
                if not isinstance(value, of):
                    raise PluginError(
                        f"Plugin {plugin!r} returned {_kind(value)} from {hook}.", hint=_wanted(value, of)
                    )
            results.setdefault(plugin, []).extend(values)
        return results

    def first(self, hook: str, **arguments: Any) -> Any:
        """Call a hook of which one answer counts; return the first that is not None, or None.

        Raises:
            PluginError: a plugin's hook raised something that is not meant for people.
        """
        return next((value for _, value in self._call(hook, arguments)), None)

    def origin(self, thing: Any) -> str:
        """Return the plugin whose hook returned this very object, such as a preprocess; empty where none did."""
        reference, plugin = self._origins.get(id(thing), (None, ""))
        return plugin if reference is not None and reference() is thing else ""

    def _remember(self, plugin: str, values: Iterable[Any]) -> None:
        for value in values:
            with contextlib.suppress(TypeError):  # what cannot be referred to weakly is no object of a plugin's class
                self._origins[id(value)] = weakref.ref(value, partial(self._forget_origin, id(value))), plugin

    def _forget_origin(self, key: int, reference: weakref.ref[Any]) -> None:
        if self._origins.get(key, (None,))[0] is reference:
            del self._origins[key]

    def _call(self, hook: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the name of each plugin that implements the hook with its answer: a list where all answers count."""
        caller: pluggy.HookCaller = getattr(self.pluggy.hook, hook)
        single = caller.spec is not None and caller.spec.opts["firstresult"]
        shown = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items())
        for implementation in reversed(caller.get_hookimpls()):
            plugin = implementation.plugin_name
            taken = [arguments[name] for name in implementation.argnames]
            self._trace(f"{hook}({shown}) -> {plugin}")
            try:
                value: Any = implementation.function(*taken)
                if value is not None and not single:
                    value = list(value.items() if isinstance(value, Mapping) else value)
            except (Exception, SystemExit) as error:
                self._trace(f"{hook} = {_short(error)}")
                if isinstance(error, ConvkitError):
                    raise
                raise PluginError(
                    f"Plugin {plugin!r} failed in {hook}: {_first_line(error)}",
                    hint=f"Update it, or leave it out with --no-plugin {plugin}; CONVKIT_DEBUG=1 shows where it fails.",
                ) from error
            self._trace(f"{hook} = {_short(value)}")
            if value is not None:
                self._remember(plugin, [value] if single else value)
                yield plugin, value

    def _trace(self, text: str) -> None:
        if self._traced:
            sys.stderr.write(f"[hook] {text}\n")

    def _offers(self) -> dict[str, list[tuple[str, Adapter]]]:
        """Return the adapters of each name in call order, each with its plugin."""
        table: dict[str, list[tuple[str, Adapter]]] = {}
        for plugin, adapters in self.gather("convkit_adapters").items():
            for adapter in adapters:
                if isinstance(adapter, type) or not isinstance(getattr(adapter, "name", None), str):
                    raise PluginError(
                        f"Plugin {plugin!r} returned {_kind(adapter)} from convkit_adapters.",
                        hint=f"Return objects of adapters that have a name, for example [{_class_name(adapter)}()].",
                    )
                table.setdefault(adapter.name, []).append((plugin, adapter))
        return dict(sorted(table.items()))

    def _check_offered(self, name: str, table: Collection[str]) -> None:
        if name not in table:
            broken = f" These plugins failed to load: {', '.join(b.name for b in self.broken)}." if self.broken else ""
            raise AdapterNotFoundError(
                f"There is no adapter {name!r}.",
                hint=f"{suggest(name, table)} Installed: {', '.join(table) or 'none'}.{broken}"
                f" `convkit new adapter NAME` writes a new one.".strip(),
            )

    def _forget(self, name: str) -> None:
        if self.pluggy.has_plugin(name):
            self.pluggy.unregister(name=name)


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


def hook_names() -> list[str]:
    """Return the names of all hooks."""
    return [name for name in dir(hookspecs) if name.startswith(PREFIX)]


def _clash(adapter: str, plugins: Sequence[str]) -> Iterator[str]:
    if len(plugins) > 1:
        used, *others = plugins
        yield (
            f"plugins {', '.join(map(repr, plugins))} all offer the adapter {adapter!r}; that of {used!r} is used."
            f" Leave out what you do not want: {' '.join(f'--no-plugin {name}' for name in others)}"
        )


def _functions_named_like_hooks(plugin: Any) -> Iterator[str]:
    for name in dir(plugin):
        if name.startswith(PREFIX) and inspect.isroutine(getattr(plugin, name)):
            yield name


def _why_not_called(name: str) -> str:
    known = hook_names()
    if name in known:
        return "it lacks @convkit.hookimpl."
    return f"it lacks @convkit.hookimpl, and there is no hook of that name. {suggest(name, known)}".strip()


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _class_name(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _wanted(value: Any, of: type | tuple[type, ...]) -> str:
    kinds = of if isinstance(of, tuple) else (of,)
    names = " or ".join(f"convkit.{kind.__name__}" for kind in kinds)
    if isinstance(value, type) and issubclass(value, kinds):
        return f"Return an object of it: [{value.__name__}()]."
    return f"Return a list of {names} objects."


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
