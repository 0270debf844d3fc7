"""Faults planted in a kernel's source, all in one text that is compiled once: an environment variable chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from convkit.cuda import flatten

CHOSEN = "CONVKIT_TEST_FAULT"
"""The environment variable: the name of a fault's place in order, from 1; no fault without it."""
# In front of the source. A process is asked each time, because its library is loaded once.
_ASK = f"""extern "C" char* getenv(const char*) noexcept;
extern "C" int atoi(const char*) noexcept;
inline bool planted(int number) {{
    const char* const chosen = getenv("{CHOSEN}");
    return chosen != nullptr && atoi(chosen) == number;
}}
"""


class Fault(NamedTuple):
    """One or more statements of a source that occur once between two texts, and others in their place."""

    right: str
    wrong: str = ""
    before: str = ""
    after: str = ""


def plant(source: Path, faults: Mapping[str, Fault], folder: Path) -> Path:
    """Write a source with all faults, of which none is chosen, and return its path."""
    text, choices = flatten(source), {}
    for number, fault in enumerate(faults.values(), start=1):
        choices.setdefault((fault.before, fault.right, fault.after), []).append((number, fault.wrong))
    for (before, right, after), wrongs in choices.items():
        assert text.count(before + right + after) == 1, right
        chosen = "".join(f"if (planted({number})) {{ {wrong} }} else " for number, wrong in wrongs)
        text = text.replace(before + right + after, f"{before}{{ {chosen}{{ {right} }} }}{after}")
    path = folder / source.name
    path.write_text(_ASK + text, encoding="utf-8")
    return path
