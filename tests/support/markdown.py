"""Reading the project's Markdown documents: code blocks with their test directives, sections, links.

A test directive is an HTML comment before a code block:

    <!-- test: skip, REASON -->        the block is not run
    <!-- test: file PATH -->           the block is written to this file of the working directory
    <!-- test: exit N -->              its last command ends with this code, not 0
    <!-- test: output -->              the block is what the block before it prints
    <!-- test: quote PATH -->          the block is in this file of the repository; "..." leaves lines out
    <!-- test: install DIR -->         the block installs the distribution in this directory

One anywhere else in the document says where its blocks start from:

    <!-- test: after DOCUMENT -->      the working directory as the blocks of that document leave it
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
)

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_DIRECTIVE = re.compile(r"<!-- test: (?P<text>.*?) -->")
_HEADING = re.compile(r"^(?P<level>#{1,6}) +(?P<title>.*?)#*$")


@dataclass(frozen=True)
class Block:
    """A fenced code block: where it starts, its language, its text, and the directive above it."""

    document: str
    line: int
    language: str
    text: str
    directive: str = ""

    @property
    def place(self) -> str:
        """Return ``docs/cli.md:12``."""
        return f"{self.document}:{self.line}"

    def told(self, word: str) -> str | None:
        """Return what follows ``word`` in the directive, or None where it says something else."""
        first, _, rest = self.directive.partition(" ")
        return rest.strip() if first.rstrip(",") == word else None


@dataclass(frozen=True)
class Section:
    """The text from one heading to the next of the same or a higher level."""

    level: int
    title: str
    text: str


def read(document: str) -> str:
    """Return the text of a document, given by its path below the repository."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """Return the code blocks of a document in order."""
    found: list[Block] = []
    directive, opened, lines = "", None, []
    for number, line in enumerate(read(document).splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None:
            comment = _DIRECTIVE.fullmatch(line.strip())
            if fence:
                opened, lines = (number, fence["info"].strip(), len(fence["indent"])), []
            elif comment:
                directive = comment["text"]
            elif line.strip():
                directive = ""
        elif fence and not fence["info"].strip():
            start, language, indent = opened
            text = "".join(f"{inner[indent:]}\n" for inner in lines)
            found.append(Block(document, start, language, text, directive))
            directive, opened = "", None
        else:
            lines.append(line)
    assert opened is None, f"{document}:{opened} is never closed"
    return found


def starts_after(document: str) -> str | None:
    """Return the document in whose working directory this one's blocks go on, if it names one."""
    words = [match["text"].split() for match in _DIRECTIVE.finditer(read(document))]
    return next((word[1] for word in words if word[0] == "after"), None)


def prose(document: str) -> str:
    """Return the document with its code blocks blanked out, line by line."""
    kept, inside = [], False
    for line in read(document).splitlines():
        fence = _FENCE.match(line)
        kept.append("" if inside or fence else line)
        inside ^= bool(fence)
    return "\n".join(kept)


def sections(document: str) -> list[Section]:
    """Return every section, nested ones both on their own and inside their parents."""
    lines, plain = read(document).splitlines(), prose(document).splitlines()
    heads = [
        (i, len(match["level"]), match["title"].strip())
        for i, line in enumerate(plain)
        if (match := _HEADING.match(line))
    ]
    found = []
    for index, (start, level, title) in enumerate(heads):
        end = next((i for i, other, _ in heads[index + 1 :] if other <= level), len(lines))
        found.append(Section(level, title, "\n".join(lines[start + 1 : end])))
    return found


def section(document: str, title: str) -> Section:
    """Return the section with this heading, backquotes aside."""
    matching = [part for part in sections(document) if part.title.replace("`", "") == title]
    assert len(matching) == 1, f"{document} has {len(matching)} sections {title!r}"
    return matching[0]


def anchors(document: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    seen: Counter[str] = Counter()
    names = set()
    for part in sections(document):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", part.title).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        names.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return names


def links(document: str) -> list[str]:
    """Return the targets of all links and images outside code."""
    text = re.sub(r"`[^`\n]*`", "", prose(document))
    return [match.group(1) for match in re.finditer(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", text)] + re.findall(
        r'(?:src|href)="([^"]+)"', text
    )
