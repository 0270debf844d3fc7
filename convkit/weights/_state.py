"""Finding the weights of a network in what a checkpoint contains: which entry they are under, and which prefix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from convkit.errors import CheckpointError, listing

__all__ = ["StateDict", "find_state_dict"]

_USUAL = ("state_dict", "model_state_dict", "model", "")
"""Where most training code puts the weights; ``""`` is the file itself. What is there is taken without a word."""
_OTHER = ("net", "network", "params", "weights", "module", "models", "state")
_BESIDE = re.compile(
    r"(^|_)(optim|sched|lr_|scaler|loss|callback|loops|amp|rng|hyper|args?$|config|cfg|meta|history|hooks?)", re.I
)
"""Names of entries that contain no weights of the network: states of optimisers have tensors too."""
_AVERAGED = re.compile(
    r"(^|[._/])(model_?)?(ema|swa|teacher|shadow|averaged?|moving_average)|_(ema|swa)([._/]|$)", re.I
)
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
"""What torch.compile, FSDP and others put into names, at any place."""
_LEADING = ("module.", "model.", "net.", "network.")
_DEPTH = 4
_UNFINISHED = (
    ("_orig", "_mask", "is pruned", "torch.nn.utils.prune.remove"),
    ("_orig", "_u", "has a spectral norm", "torch.nn.utils.remove_spectral_norm"),
    ("_g", "_v", "has a weight norm", "torch.nn.utils.remove_weight_norm"),
    (".original", ".original", "is parametrised", "torch.nn.utils.parametrize.remove_parametrizations"),
    (".original0", ".original1", "is parametrised", "torch.nn.utils.parametrize.remove_parametrizations"),
)
"""How a weight that training computes from others is stored: two endings of names, what it is, what undoes it."""


@dataclass(frozen=True)
class StateDict:
    """The weights that `find_state_dict` found: tensors by name, and sentences on what a user should know of it.

    ``place`` is the entry of the file that they were under, such as ``ema.module``, and ``prefix`` what was taken off
    every name.
    """

    tensors: Mapping[str, torch.Tensor]
    place: str
    prefix: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Copy:
    """One set of weights in the file."""

    place: str
    prefix: str
    entries: Mapping[str, Any]
    wrappers: tuple[str, ...]
    marks: int
    """How many of the adapter's marks it has."""

    @property
    def size(self) -> int:
        """The number of its arrays."""
        return sum(map(_is_array, self.entries.values()))

    def bare(self, name: str) -> str:
        """Return a name of the file without what wrappers put into it; the prefix is still there."""
        return _bare(name, self.wrappers)

    @property
    def address(self) -> str:
        return ".".join(filter(None, (self.place, self.prefix.rstrip("."))))

    @property
    def averaged(self) -> bool:
        return bool(_AVERAGED.search(self.address))


def find_state_dict(content: Any, source: str, *, marks: Sequence[str] = (), entry: str = "") -> StateDict:
    """Return the weights of one network in the content of a checkpoint, as `read_weights` returns it.

    They may be the content itself, or under an entry such as ``state_dict``, ``model`` or ``ema.module``, and their
    names may have a prefix of DataParallel, ``torch.compile``, FSDP, Lightning or a class around the network.
    ``marks`` are names of tensors that every network of the adapter has: where the most of them are found are the
    weights, whatever the entry or prefix is called. Tensors beside them are left out, which ``notes`` say.

    Where a file has several copies, the one that was trained is taken before an average (EMA, SWA) of it; ``entry``
    chooses another, by its place and prefix in the file. ``source`` is the name of the file for messages.

    Raises:
        CheckpointError: there are no weights, there are several and it is not clear which to take, or they are not as a
            plain network has them.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{source} holds a {type(content).__name__.lstrip('_')}, not a checkpoint.",
            hint="A checkpoint is a dictionary with the weights under 'state_dict'.",
        )
    copies = [copy for place, entries in _mappings(content) for copy in _copies(place, entries, marks)]
    if not copies:
        held = ", ".join(str(name) for name in list(content)[:8]) or "nothing"
        raise CheckpointError(
            f"{source} has no entry 'state_dict'; it holds {held}.",
            hint="A checkpoint is a dictionary with the weights under 'state_dict'.",
        )
    most, largest = max(copy.marks for copy in copies), max(copy.size for copy in copies)
    copies = [copy for copy in copies if copy.marks == most and 2 * copy.size > largest]
    chosen = _choose(copies, source, entry)
    tensors, notes = _taken(chosen, source)
    others = [copy.address or "the file itself" for copy in copies if copy is not chosen]
    what = "an average of training steps" if chosen.averaged else "the weights"
    if others:
        notes.append(f"took {what} under {chosen.address or 'no entry'}, not those under {listing(others)}")
    elif chosen.averaged or chosen.place not in _USUAL:
        notes.append(f"took {what} under {chosen.address}, the only ones in the file")
    return StateDict(tensors, chosen.place, chosen.prefix, tuple(notes))


def _mappings(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the dictionaries that contain tensors under text keys, each with its place."""
    if isinstance(content, Mapping):
        entries = {str(key): value for key, value in content.items() if isinstance(key, str)}
        if any(_is_array(value) for value in entries.values()):
            yield place, entries
        inner = [(key, value) for key, value in entries.items() if not _BESIDE.search(key)]
    elif isinstance(content, list | tuple) and len(content) <= 8:
        inner = [(str(index), value) for index, value in enumerate(content)]
    else:
        return
    if depth < _DEPTH:
        for key, value in inner:
            if isinstance(value, Mapping | list | tuple):
                yield from _mappings(value, f"{place}.{key}" if place else key, depth + 1)


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


def _copies(place: str, entries: Mapping[str, Any], marks: Sequence[str]) -> Iterator[_Copy]:
    """Yield each set of weights of a dictionary: one for each prefix that the marks have, or one in all."""
    found: list[_Copy] = []
    for wrappers in (_WRAPPERS, (*_WRAPPERS, "module.")):  # DataParallel may be around parts of the network
        names = {_bare(name, wrappers) for name in entries}
        votes = Counter(
            name[: -len(mark)] for mark in marks for name in names if name == mark or name.endswith(f".{mark}")
        )
        most = max(votes.values(), default=0)
        if most > (found[0].marks if found else 0):
            # A trunk alone, such as "backbone.", is no wrapper around the network: only all marks can say that.
            prefixes = [prefix for prefix, n in votes.items() if n == most and (n == len(marks) or _leads(prefix))]
            found = [_Copy(place, prefix, entries, wrappers, most) for prefix in prefixes]
    if found:
        yield from found
        return
    prefix = ""
    names = {_bare(name, _WRAPPERS) for name in entries}
    while leading := next((word for word in _LEADING if all(n.startswith(prefix + word) for n in names)), ""):
        prefix += leading
    yield _Copy(place, prefix, entries, _WRAPPERS, 0)


def _leads(prefix: str) -> bool:
    return all(f"{word}." in _LEADING for word in prefix.split(".")[:-1])


def _bare(name: str, wrappers: Sequence[str]) -> str:
    for wrapper in wrappers:
        name = name.replace(wrapper, "")
    return name


def _choose(copies: list[_Copy], source: str, entry: str) -> _Copy:
    if entry:
        wanted = [copy for copy in copies if entry in (copy.address, copy.place)]
        if not wanted:
            raise CheckpointError(
                f"{source} has no weights under {entry!r}.",
                hint=f"It has them under {listing(copy.address or 'no entry' for copy in copies)}.",
            )
        return wanted[0]
    chosen, *others = sorted(copies, key=_rank)
    if others and _rank(others[0]) == _rank(chosen):
        raise CheckpointError(
            f"{source} contains the weights of several networks, under"
            f" {listing(repr(copy.address) if copy.address else 'no prefix' for copy in copies)}.",
            hint="Save the state dict of one model only.",
        )
    return chosen


def _rank(copy: _Copy) -> tuple[bool, int]:
    names = (*_USUAL, *_OTHER)
    return copy.averaged, names.index(copy.place) if copy.place in names else len(names)


def _taken(copy: _Copy, source: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors of a copy under their plain names, and notes on what was done."""
    found: dict[str, Any] = {}
    outside: list[str] = []
    for raw, value in copy.entries.items():
        bare = copy.bare(raw)
        if not bare.startswith(copy.prefix):
            outside.append(raw)
            continue
        name = bare[len(copy.prefix) :]
        if name in found or any(name.removeprefix(word) in copy.entries for word in _LEADING if name.startswith(word)):
            raise CheckpointError(
                f"{source} holds {name} twice, with the prefix of a wrapper and without.",
                hint="Save the state dict of one model only.",
            )
        found[name] = value
    wrong = [f"{name} ({type(value).__name__.lstrip('_')})" for name, value in found.items() if not _is_array(value)]
    if wrong:
        raise CheckpointError(
            f"{source} holds entries that are not tensors: {listing(wrong)}.",
            hint="The weights must be a state dict: torch.save({'epoch': 0, 'state_dict': model.state_dict()}, FILE).",
        )
    notes = [f"took the prefix {copy.prefix!r} off {len(found)} entries"] if copy.prefix else []
    for wrapper in copy.wrappers:
        if count := sum(wrapper in name for name in copy.entries):
            notes.append(f"took {wrapper!r} out of {count} entries")
    averages = {f"ema_{name.replace('.', '_')}" for name in found} & found.keys()
    if averages:
        found = {name: value for name, value in found.items() if name not in averages}
        notes.append(f"left out {len(averages)} entries ema_*, an average of training steps")
    if outside:
        tops = Counter(name.split(".")[0] for name in outside)
        shown = listing(f"{top} x{count}" for top, count in tops.items())
        notes.append(f"left out {len(outside)} entries without that prefix: {shown}")
    _refuse_unfinished(found, source)
    return {name: _tensor(name, value, source) for name, value in found.items()}, notes


def _refuse_unfinished(found: Mapping[str, Any], source: str) -> None:
    for name in found:
        for ending, partner, what, cure in _UNFINISHED:
            if name.endswith(ending) and name.removesuffix(ending) + partner in found:
                weight = name.removesuffix(ending).replace(".parametrizations.", ".")
                raise CheckpointError(
                    f"{source} holds weights as training had them: {weight} {what}.",
                    hint=f"Undo that with {cure} in the training code, and save the state dict again.",
                )


def _tensor(name: str, value: Any, source: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    try:
        return torch.from_numpy(np.array(value))
    except TypeError as error:
        raise CheckpointError(
            f"{source} holds an array of {value.dtype} under {name}.",
            hint="The weights must be a state dict: torch.save(model.state_dict(), FILE).",
        ) from error
