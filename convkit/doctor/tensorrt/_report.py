"""The report of an examination: for people a line for each thing, for a bug report everything as JSON."""

from __future__ import annotations

import re
import site
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convkit.cuda import cache_folder
from convkit.doctor._recommendations import Recommendation
from convkit.doctor.tensorrt._steps import FAILED, NOT_OFFERED, PASSED, SKIPPED, WRONG, Step
from convkit.errors import EnvironmentProblem, ValidationError

__all__ = ["TensorRTReport", "overview"]

FORMAT = "convkit doctor tensorrt 1"
_ORDER = (WRONG, FAILED, PASSED, NOT_OFFERED, SKIPPED)
"""Which state stands for several: the worst, else that of what was tried."""


@dataclass(frozen=True)
class TensorRTReport:
    """Every step that was made or skipped, and the ways that are recommended."""

    steps: tuple[Step, ...]
    recommendations: tuple[Recommendation, ...] = ()

    @property
    def exit_code(self) -> int:
        """4 if something computes wrongly, else 5 if something does not work, else 0."""
        states = {step.state for step in self.steps}
        if WRONG in states:
            return ValidationError.exit_code
        return EnvironmentProblem.exit_code if FAILED in states else 0

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object, with the folders of this machine and its user replaced by names."""
        document = {
            "format": FORMAT,
            "exit_code": self.exit_code,
            "recommendations": [asdict(each) for each in self.recommendations],
            "steps": [step.to_json() for step in self.steps],
        }
        result: dict[str, Any] = _without_paths(document)
        return result


def overview(steps: Sequence[Step]) -> list[Step]:
    """Return one step for all of a section and name, in order: the worst state, and what was said with it."""
    groups: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        groups.setdefault((step.section, step.name), []).append(step)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[Step]) -> Step:
    if len(group) == 1 and not group[0].case:
        return group[0]
    state = next(state for state in _ORDER if any(step.state == state for step in group))
    chosen = [step for step in group if step.state == state]
    text = _with_cases(chosen, all_of_it=len(chosen) == len(group))
    for other in (NOT_OFFERED, SKIPPED):
        rest = [step for step in group if step.state == other]
        if other != state and rest and state == PASSED:
            text += f"; {other}: {_with_cases(rest, all_of_it=False)}"
    return Step(
        group[0].section,
        group[0].name,
        state,
        text,
        chosen[0].remedy,
        details={"cases": [step.case for step in chosen]},
        seconds=sum(step.seconds for step in group),
    )


def _with_cases(steps: Sequence[Step], *, all_of_it: bool) -> str:
    """Return what the steps say: once if they say the same, else the first two with their cases."""
    if len({step.text for step in steps}) == 1:
        cases = ", ".join(step.case for step in steps[:2]) + (f" and {len(steps) - 2} more" if len(steps) > 2 else "")
        return steps[0].text if all_of_it else f"{cases}: {steps[0].text}"
    if all(step.state == PASSED for step in steps) and len(steps) > 2:
        return f"{len(steps)} of {len(steps)}; {steps[-1].case}: {steps[-1].text}"
    said = "; ".join(f"{step.case}: {step.text}" for step in steps[:2])
    return said if len(steps) <= 2 else f"{said}; and {len(steps) - 2} more"


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_paths(key): _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return _hide(value) if isinstance(value, str) else value


def _hide(text: str) -> str:
    """Return a text with this machine's folders replaced, the longest first."""
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    folders = {
        **dict.fromkeys(packages, "<packages>"),
        str(Path(__file__).parents[3]): "<convkit>",
        str(cache_folder()): "<cache>",
        sys.prefix: "<python>",
        sys.base_prefix: "<python>",
        str(Path.cwd()): "<folder>",
        tempfile.gettempdir(): "<temporary>",
        str(Path.home()): "<home>",
    }
    for folder in sorted(folders, key=len, reverse=True):
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?=[/\\]|\b)", folders[folder], text)
    return text
