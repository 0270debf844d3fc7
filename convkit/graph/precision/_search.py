"""The smallest set of nodes that must stay in float32: bisection over a ranked list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convkit.errors import ConversionError, SettingError
from convkit.progress import Progress, silent

__all__ = ["Accept", "Search", "Trial", "search"]

Kept = frozenset[str]
"""Names of the nodes that stay in float32."""
Accept = Callable[[Kept], "bool | tuple[bool, str]"]
"""Whether the tolerance holds when these nodes stay in float32; with a text of the figures, if there are any."""
DEFAULT_LIMIT = 60


@dataclass(frozen=True)
class Trial:
    """One question that was asked: the nodes kept, the answer, and the figures behind it in words."""

    kept: Kept
    accepted: bool
    figures: str = ""


@dataclass(frozen=True)
class Search:
    """The nodes that a search keeps, and how far that can be relied on.

    ``kept`` met the tolerance, in the order of the ranking. ``minimal`` says that none of them can be left out: each
    was tried. It is False where the limit of trials came first. ``contradictions`` are pairs of trials in which the
    smaller set was accepted and the larger one refused: then more nodes in float32 were worse, and a smaller set may
    exist that was not found.
    """

    kept: tuple[str, ...]
    trials: tuple[Trial, ...]
    minimal: bool
    contradictions: tuple[tuple[Trial, Trial], ...] = ()

    @property
    def monotone(self) -> bool:
        """Whether no trial contradicts that more nodes in float32 are never worse."""
        return not self.contradictions

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object; trials have the number of nodes that they kept."""
        return {
            "kept": list(self.kept),
            "minimal": self.minimal,
            "monotone": self.monotone,
            "trials": [
                {"kept": len(trial.kept), "accepted": trial.accepted, "figures": trial.figures} for trial in self.trials
            ],
        }


class _OutOfTrials(Exception):  # noqa: N818 - it ends the search, and is no error
    pass


@dataclass
class _Trials:
    """Asks each question once, counts them, and knows the smallest set that was accepted."""

    accept: Accept
    limit: int
    progress: Progress
    answers: dict[Kept, Trial] = field(default_factory=dict)
    best: Kept | None = None

    def __call__(self, names: Iterable[str]) -> bool:
        kept = frozenset(names)
        if kept not in self.answers:
            if len(self.answers) >= self.limit:
                raise _OutOfTrials
            self.progress("searching for nodes to keep in float32", len(self.answers), self.limit)
            answer = self.accept(kept)
            accepted, figures = answer if isinstance(answer, tuple) else (answer, "")
            self.answers[kept] = Trial(kept, bool(accepted), figures)
            if accepted and (self.best is None or len(kept) < len(self.best)):
                self.best = kept
        return self.answers[kept].accepted

    def contradictions(self) -> tuple[tuple[Trial, Trial], ...]:
        trials = list(self.answers.values())
        good, bad = ([trial for trial in trials if trial.accepted is wanted] for wanted in (True, False))
        return tuple((small, large) for small in good for large in bad if small.kept < large.kept)


def search(
    nodes: Sequence[str],
    accept: Accept,
    *,
    errors: Mapping[str, float] | None = None,
    groups: Mapping[str, str] | None = None,
    limit: int = DEFAULT_LIMIT,
    progress: Progress = silent,
) -> Search:
    """Return the smallest set of ``nodes`` that must stay in float32 for ``accept`` to hold.

    The nodes are ranked by ``errors``, their local errors; equals, and nodes without one, keep their order. The
    shortest head of that ranking that is accepted is found by halving; then what it contains in vain is taken out by
    halving too, small errors first: about ``log2(n) + 2 m log2(n / m)`` trials for ``m`` kept of ``n``. ``groups``
    gives nodes a group each, such as their module: whole groups are searched first, then the nodes of those found.

    That is right where more nodes in float32 are never worse; every trial is checked against it. The same arguments
    give the same trials.

    Raises:
        SettingError: a name occurs twice.
        ConversionError: not even all nodes in float32 are accepted.
    """
    if len(set(nodes)) != len(nodes):
        twice = next(name for place, name in enumerate(nodes) if name in nodes[:place])
        raise SettingError(f"The node {twice!r} is listed twice.", hint="Give each node a name of its own.")
    ranked = sorted(nodes, key=lambda name: -(errors or {}).get(name, 0.0))
    ask = _Trials(accept, max(limit, 2), progress)
    if ask(()):
        return Search((), tuple(ask.answers.values()), True)
    if not ask(ranked):
        figures = ask.answers[frozenset(ranked)].figures
        raise ConversionError(
            f"Even with all {len(nodes)} nodes in float32 the tolerance does not hold{f': {figures}' * bool(figures)}.",
            hint="The tolerance is tighter than float32 allows, or what is measured differs from its reference.",
        )
    minimal = True
    try:
        found = ranked
        if groups:
            members = _members(ranked, groups)
            chosen = _smallest(list(members), lambda names: ask(name for group in names for name in members[group]))
            found = [name for name in ranked if groups.get(name, name) in chosen]
        found = _smallest(found, ask)
        found = _none_to_spare(found, ask)
    except _OutOfTrials:
        minimal = False
        found = [name for name in ranked if name in (ask.best or ())]
    return Search(tuple(found), tuple(ask.answers.values()), minimal, ask.contradictions())


def _members(ranked: Sequence[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the nodes by group, groups in the order of their worst node; a node without one is a group by itself."""
    members: dict[str, list[str]] = {}
    for name in ranked:
        members.setdefault(groups.get(name, name), []).append(name)
    return members


def _smallest(ranked: Sequence[str], ask: Callable[[Iterable[str]], bool]) -> list[str]:
    """Return a smallest set of a ranked list that is accepted; the whole list is known to be."""
    low, high = 0, len(ranked)
    while low < high:  # the shortest head that is accepted has more than ``low`` and at most ``high``
        middle = (low + high) // 2
        if ask(ranked[:middle]):
            high = middle
        else:
            low = middle + 1
    if not high:
        return []
    # The last of that head is needed, for the head without it was refused.
    last = ranked[high - 1 : high]
    needed = {*last, *_needed(last, last, ranked[: high - 1], ask)}
    return [name for name in ranked if name in needed]


def _needed(
    given: Sequence[str], new: Sequence[str], candidates: Sequence[str], ask: Callable[[Iterable[str]], bool]
) -> list[str]:
    """Return the least of the candidates that is accepted together with ``given``, of which ``new`` was added last.

    This is QuickXplain (Junker 2004): of two sets that do, it finds the one of higher rank.
    """
    if not candidates or (new and ask(given)):
        return []
    if len(candidates) == 1:
        return list(candidates)
    middle = (len(candidates) + 1) // 2
    first, second = candidates[:middle], candidates[middle:]
    low = _needed([*given, *first], first, second, ask)
    high = _needed([*given, *low], low, first, ask)
    return [*high, *low]


def _none_to_spare(found: Sequence[str], ask: Callable[[Iterable[str]], bool]) -> list[str]:
    """Return the set without what can be left out after all, which happens only where larger sets are worse."""
    kept = list(found)
    for name in reversed(found):
        rest = [other for other in kept if other != name]
        if ask(rest):
            kept = rest
    return kept
