"""Links of the documents that stay in the repository lead somewhere, and pictures are small."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from support import markdown

LARGEST_PICTURE = 300_000
PAGES = [
    *markdown.DOCUMENTS,
    *(path.relative_to(markdown.ROOT).as_posix() for path in markdown.ROOT.glob("examples/*/README.md")),
]


def resolve(document: str, target: str) -> tuple[str, str]:
    """Return (path below the repository, anchor) of a relative link."""
    path, _, anchor = target.partition("#")
    if not path:
        return document, anchor
    full = (markdown.ROOT / PurePosixPath(document).parent / path).resolve()
    return full.relative_to(markdown.ROOT).as_posix(), anchor


def relative_links(document: str) -> list[str]:
    return [target for target in markdown.links(document) if "://" not in target and not target.startswith("mailto:")]


@pytest.mark.parametrize("document", PAGES)
def test_relative_links_exist(document):
    broken = []
    for target in relative_links(document):
        path, anchor = resolve(document, target)
        if not (markdown.ROOT / path).exists() or (anchor and anchor not in markdown.anchors(path)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("document", PAGES)
def test_links_to_the_web_are_encrypted(document):
    plain = [target for target in markdown.links(document) if target.startswith("http:")]
    assert not plain


@pytest.mark.parametrize("document", [name for name in markdown.DOCUMENTS if name.startswith("docs/")])
def test_every_page_can_be_reached_from_the_readme(document):
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = {resolve(page, target)[0] for target in relative_links(page)}
        waiting += [target for target in targets if target in markdown.DOCUMENTS and target not in reached]
    assert document in reached


def test_pictures_are_small():
    pictures = [path for path in (markdown.ROOT / "docs" / "images").iterdir() if path.is_file()]
    assert pictures
    assert {path.name: path.stat().st_size for path in pictures if path.stat().st_size > LARGEST_PICTURE} == {}


def test_every_picture_is_shown():
    shown = {resolve(page, target)[0] for page in PAGES for target in relative_links(page)}
    pictures = {path.relative_to(markdown.ROOT).as_posix() for path in (markdown.ROOT / "docs" / "images").iterdir()}
    assert pictures <= shown
