"""``convkit doctor``: what this machine has, or what an error text means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from convkit._text import marked_encoding
from convkit.cli._options import JsonOption, QuietOption
from convkit.errors import OutputError, SettingError, unwritten

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convkit.doctor import Finding, KnownErrorMatch
    from convkit.doctor.tensorrt import TensorRTReport

__all__ = ["doctor"]

LONGEST = 2**19
"""Bytes at the end of an error log that are searched: some 5000 lines, which takes 2 to 3 s."""
EXCERPT = 240
"""Characters of a long line that are shown, beside what matched in it."""
TELLING = r"error|exception|fail|fatal"


def doctor(
    log: Annotated[
        Path | None,
        typer.Argument(help="A file with an error text; - reads standard input to its end.", metavar="[LOG|-]"),
    ] = None,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Build and run engines of each TensorRT that is installed.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="With --tensorrt: write the JSON report there.", metavar="FILE"),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Check this machine; given an error text (`convkit doctor error.log`), say what it means.

    Exit codes: 0 all that convkit needs works, or the error is known; 5 something that it needs
    does not work; 1 the error is not known. With --tensorrt: 4 something computes wrongly.
    """
    from convkit.cli._console import set_verbosity

    set_verbosity(quiet=quiet)
    if tensorrt:
        return _check_tensorrt(log, output, json=json)
    if output is not None:
        raise SettingError("--output is for the report of --tensorrt.", hint="Add --tensorrt, or leave it out.")
    text = _error_text(log)
    return _check(json=json) if text is None else _explain(text, json=json)


def _check(*, json: bool) -> int:
    from dataclasses import asdict

    from convkit.cli._console import emit_json, stdout
    from convkit.cli._layout import show
    from convkit.doctor import examine, works
    from convkit.errors import EnvironmentProblem

    findings = examine()
    good = works(findings)
    if json:
        emit_json({"works": good, "findings": [asdict(finding) for finding in findings]})
    else:
        show(stdout(), *_report(findings, good=good))
    return 0 if good else EnvironmentProblem.exit_code


def _check_tensorrt(log: Path | None, output: Path | None, *, json: bool) -> int:
    from json import dumps

    from convkit.cli._console import emit_json, stdout, steps
    from convkit.cli._layout import show
    from convkit.doctor.tensorrt import examine_tensorrt
    from convkit.files import write_atomic

    if log is not None:
        raise SettingError("--tensorrt examines this machine; it reads no error text.", hint=f"Leave {log} out.")
    if output is not None and output.is_dir():
        raise OutputError(f"--output {output} is a folder.", hint="Give the file to write.")
    with steps("doctor") as progress:
        report = examine_tensorrt(progress)
    document = report.to_json()
    if json:
        emit_json(document)
    else:
        show(stdout(), *_tensorrt_report(report))
    if output is not None:
        try:
            write_atomic(output, dumps(document, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise unwritten(output, error, "Give another --output; --json prints the report.") from error
    return report.exit_code


def _tensorrt_report(report: TensorRTReport) -> Iterator[RenderableType]:
    from convkit.cli._layout import add_row, grid, styled
    from convkit.doctor.tensorrt import FAILED, NOT_OFFERED, PASSED, SKIPPED, WRONG, overview

    styles = {PASSED: "green", SKIPPED: "yellow", NOT_OFFERED: "yellow", FAILED: "bold red", WRONG: "bold red"}
    rows, section = grid(3, unbroken=2), ""
    for step in overview(report.steps):
        if step.section != section:
            if section:
                add_row(rows)
            section = step.section
            add_row(rows, styled(section, style="bold"))
        text = styled(step.text)
        if step.remedy:
            text.append("\n" if step.state in (FAILED, WRONG) else "; ").append(styled(step.remedy, "cyan"))
        add_row(rows, styled(f"  {step.state}", style=styles[step.state]), step.name, text)
    yield rows
    yield ""
    counts = {state: sum(step.state == state for step in report.steps) for state in (WRONG, FAILED, SKIPPED)}
    if counts[WRONG]:
        yield styled(f"{counts[WRONG]} of {len(report.steps)} steps compute something wrong", style="bold red")
    elif counts[FAILED]:
        yield styled(f"{counts[FAILED]} of {len(report.steps)} steps do not work", style="bold red")
    else:
        left = f"; {counts[SKIPPED]} cannot be made here" if counts[SKIPPED] else ""
        yield styled(f"all steps that can be made here passed{left}", style="green")
    for recommendation in report.recommendations:
        yield styled(f"{recommendation.flavour}: {recommendation.text}", style="cyan")


def _explain(text: str, *, json: bool) -> int:
    from convkit.cli._console import emit_json, stdout
    from convkit.cli._layout import show
    from convkit.doctor import explain

    found = explain(text)
    if json:
        matches = [{"plugin": m.plugin, "line": m.line, "cause": m.error.cause, "cure": m.error.cure} for m in found]
        emit_json({"recognised": bool(found), "matches": matches})
    elif found:
        show(stdout(), *_explanations(found))
    else:
        show(stdout(), *_unknown(text))
    return 0 if found else 1


def _report(findings: Sequence[Finding], *, good: bool) -> Iterator[RenderableType]:
    from convkit.cli._layout import add_row, grid, styled

    styles = {"ok": "green", "missing": "yellow", "problem": "bold red"}
    section = ""
    rows = grid(3, unbroken=2)
    for finding in findings:
        if finding.section != section:
            if section:
                add_row(rows)
            section = finding.section
            add_row(rows, styled(section, style="bold"))
        text = styled(finding.text)
        if finding.remedy:
            text.append("\n" if finding.state == "problem" else "; ").append(styled(finding.remedy, "cyan"))
        add_row(rows, styled(f"  {finding.state}", style=styles[finding.state]), finding.name, text)
    yield rows
    yield ""
    troubles = sum(finding.state == "problem" for finding in findings)
    if not good:
        yield styled("convkit does not work here; see the problems above", style="bold red")
    elif troubles:
        yield styled(f"convkit works here, with {troubles} problem{'' if troubles == 1 else 's'}", style="yellow")
    else:
        yield styled("convkit works here", style="green")


def _explanations(found: Sequence[KnownErrorMatch]) -> Iterator[RenderableType]:
    from convkit.cli._layout import field_grid, styled

    for number, known in enumerate(found):
        if number:
            yield ""
        yield styled(_excerpt(known.line, known.error.pattern), style="bold")
        yield field_grid([("  cause", styled(known.error.cause)), ("  cure", styled(known.error.cure, style="cyan"))])


def _unknown(text: str) -> Iterator[RenderableType]:
    import re

    from rich.text import Text

    from convkit.cli._layout import styled

    yield styled("No known error in this text.", style="yellow")
    telling = [line.strip() for line in text.splitlines() if re.search(TELLING, line, flags=re.IGNORECASE)]
    if telling:
        line = _excerpt(telling[-1], TELLING)
        yield Text.assemble("The line that looks most like the cause: ", styled(line, "bold"))
    yield styled(
        "Look the line up in the issues of the tool that wrote it; `convkit doctor` by itself checks this machine,"
        " and -v makes every convkit command say more.",
    )


def _excerpt(line: str, pattern: str) -> str:
    """Return the part of a line around what the pattern matches."""
    import re

    match = re.search(pattern, line, flags=re.IGNORECASE)
    first, last = match.span() if match else (0, 0)
    start, end = max(0, first - EXCERPT // 3), last + EXCERPT // 3
    return ("…" if start else "") + line[start:end].strip() + ("…" if end < len(line) else "")


def _error_text(log: Path | None) -> str | None:
    """Return the end of the error text without colours, or None where there is none.

    It is the file, or standard input: if asked for, or if a file is redirected to it.
    """
    import re
    import sys

    if log is None and not _is_file_with_text(0):
        return None
    try:
        if log is None or str(log) == "-":
            data = _end(sys.stdin.buffer)
        else:
            with log.open("rb") as stream:
                data = _end(stream)
    except OSError as error:
        raise SettingError(
            f"{log} cannot be read: {error.strerror}.", hint="Give the file with the error text."
        ) from error
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", data.decode(_encoding(data), errors="replace").removeprefix("\ufeff"))


def _is_file_with_text(descriptor: int) -> bool:
    import os
    import stat

    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _end(stream: BinaryIO) -> bytes:
    """Read to the end; return the last `LONGEST` bytes."""
    data = b""
    while block := stream.read(LONGEST):
        data = (data + block)[-LONGEST:]
    return data


def _encoding(data: bytes) -> str:
    """Return what a byte-order mark says; without one, UTF-16 where most characters have a byte of 0, else UTF-8.

    PowerShell writes logs in UTF-16, and the beginning of a long one is not kept.
    """
    if marked := marked_encoding(data):
        return marked
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if 4 * (even + odd) < len(data):
        return "utf-8"
    return "utf-16-be" if even > odd else "utf-16-le"
