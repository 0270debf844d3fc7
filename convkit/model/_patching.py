"""Reversible patches that make a model exportable, must fire, and always come off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import update_wrapper, wraps
from inspect import Signature, getattr_static, signature
from typing import TYPE_CHECKING, Any

from convkit.errors import PatchError, blamed_on, named, suggest
from convkit.model._expect import Expect, at_least
from convkit.plugins import manager

if TYPE_CHECKING:
    import torch

__all__ = ["AttributePatch", "ModulePatch", "Patch", "PatchRecord", "patched"]


@dataclass
class PatchRecord:
    """What one patch did: the places it was applied to and how many of them were used."""

    name: str
    reason: str
    expect: str
    sites: list[str] = field(default_factory=list)
    fired: int = 0
    near_misses: list[str] = field(default_factory=list)


@dataclass
class ModulePatch:
    """Replace ``forward`` of every module that ``match`` accepts.

    ``match(path, module)`` returns True, False, or a string that says why a module which looks
    right is not (a near miss). ``forward(module, original, *args, **kwargs)`` is called in place
    of the method, with the method as ``original``; where it names its arguments, they are the signature that is
    exported, which may differ from the original's. The patch counts the modules it was used on.
    """

    name: str
    reason: str
    match: Callable[[str, torch.nn.Module], bool | str]
    forward: Callable[..., Any]
    expect: Expect = at_least(1)

    def install(self, model: torch.nn.Module, record: PatchRecord, undo: ExitStack) -> None:
        """Patch the matching modules of ``model``; ``undo`` restores them."""
        for path, module in model.named_modules():
            label = path or type(module).__name__
            with blamed_on(f"match() of patch {self.name!r} at module {label!r}", manager().origin(self)):
                verdict = self.match(path, module)
            if isinstance(verdict, str):
                record.near_misses.append(f"{label}: {verdict}")
            elif verdict:
                record.sites.append(label)
                _install(module, "forward", _bind(self, module, module.forward, record), undo)


@dataclass
class AttributePatch:
    """Replace one function or method: ``owner.attribute``.

    ``replacement(original, *args, **kwargs)`` is called in its place. The patch counts calls.
    """

    name: str
    reason: str
    owner: Any
    attribute: str
    replacement: Callable[..., Any]
    expect: Expect = at_least(1)

    def install(self, model: torch.nn.Module, record: PatchRecord, undo: ExitStack) -> None:
        """Patch the attribute; ``undo`` restores it."""
        del model
        owner_name = getattr(self.owner, "__name__", type(self.owner).__name__)
        if not hasattr(self.owner, self.attribute):
            raise PatchError(
                f"Patch {self.name!r} found no {owner_name}.{self.attribute} to replace.",
                hint=suggest(self.attribute, dir(self.owner)) or "The library it patches may have changed.",
            )
        record.sites.append(f"{owner_name}.{self.attribute}")
        original = getattr(self.owner, self.attribute)
        plugin = manager().origin(self)

        @wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            record.fired += 1
            with _blaming(f"replacement() of patch {self.name!r}", plugin):
                return self.replacement(original, *args, **kwargs)

        unbound = isinstance(getattr_static(self.owner, self.attribute), staticmethod | classmethod)
        _install(self.owner, self.attribute, staticmethod(counted) if unbound else counted, undo)


Patch = ModulePatch | AttributePatch


@contextmanager
def patched(
    model: torch.nn.Module,
    patches: Iterable[Patch],
    expect: Mapping[str, Expect] | None = None,
    *,
    calls: bool = True,
) -> Iterator[list[PatchRecord]]:
    """Apply ``patches`` while the block runs, then check that each fired as often as it must.

    The patches come off in reverse order whatever happens. ``expect`` overrides expectations by
    patch name. ``calls`` False does not count the calls of an `AttributePatch`, for a block that does not export.

    Raises:
        PatchError: a patch has nothing to apply to, or fired another number of times.
    """
    patches = list(patches)
    wanted = {patch.name: (expect or {}).get(patch.name, patch.expect) for patch in patches}
    records = [PatchRecord(patch.name, patch.reason, str(wanted[patch.name])) for patch in patches]
    with ExitStack() as undo:
        for patch, record in zip(patches, records, strict=True):
            patch.install(model, record, undo)
            if isinstance(patch, ModulePatch) and not wanted[patch.name].accepts(len(record.sites)):
                raise _miscount(patch, record, wanted[patch.name], "matches", len(record.sites), "module")
        yield records
    for patch, record in zip(patches, records, strict=True):
        counted = calls or isinstance(patch, ModulePatch)
        if counted and not wanted[record.name].accepts(record.fired):
            raise _miscount(patch, record, wanted[patch.name], "was used", record.fired, "time")


@contextmanager
def _blaming(what: str, plugin: str) -> Iterator[None]:
    """Blame what runs on the plugin, but for an export: exporters work by exceptions, and explain their own best."""
    import torch

    if torch.compiler.is_exporting():
        yield
    else:
        with blamed_on(what, plugin):
            yield


def _bind(
    patch: ModulePatch, module: torch.nn.Module, original: Callable[..., Any], record: PatchRecord
) -> Callable[..., Any]:
    forward, used = patch.forward, False
    what, plugin = f"forward() of patch {patch.name!r} (or what it calls)", manager().origin(patch)

    def patched_forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal used
        if not used:
            used = True
            record.fired += 1
        with _blaming(what, plugin):
            return forward(module, original, *args, **kwargs)

    update_wrapper(patched_forward, original)
    vars(patched_forward).pop("__wrapped__")  # through it, exporters would find the signature of the original
    parameters = list(signature(forward).parameters.values())
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        patched_forward.__signature__ = signature(original)  # type: ignore[attr-defined]
    else:
        patched_forward.__signature__ = Signature(parameters[2:])  # type: ignore[attr-defined]
    return patched_forward


def _install(owner: Any, attribute: str, value: Any, undo: ExitStack) -> None:
    own = vars(owner).get(attribute, _ABSENT)
    setattr(owner, attribute, value)
    if own is _ABSENT:
        undo.callback(delattr, owner, attribute)
    else:
        undo.callback(setattr, owner, attribute, own)


_ABSENT = object()


def _miscount(patch: Patch, record: PatchRecord, wanted: Expect, verb: str, count: int, noun: str) -> PatchError:
    sites = f" It was applied to: {', '.join(record.sites[:10])}." if record.sites else ""
    misses = "".join(f"\n  {miss}" for miss in record.near_misses[:10])
    if count >= wanted.least:
        hint = "It is too often: let match() accept fewer modules, or declare how often it fires on this model."
    elif misses:
        hint = f"Near misses:{misses}"
    elif record.sites:
        hint = "The model does not use all places that it was applied to, or fewer modules look like what it is for."
    else:
        hint = "No module looks like what it is for: is this the right model?"
    who = named(f"patch {record.name!r}", manager().origin(patch))
    plural = "" if count == 1 else "s"
    return PatchError(f"{who} {verb} {count} {noun}{plural}; it declares {record.expect}.{sites}", hint=hint)
