"""The code blocks of the documents run, print what the documents show, or say why a test cannot run them."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from support import markdown, warm
from support.workshop import ENVIRONMENT, Workshop, commands, matches

DATA = {"text", "mermaid"}
"""Languages of blocks that show something and do nothing."""
TRANSLATIONS = {"docs/tutorial.zh-CN.md": "docs/tutorial.md"}
"""Documents whose blocks are those of another one, which runs them."""


@pytest.fixture(scope="module")
def programs():
    """Return a folder with a ``convkit``, ``python`` and ``pytest`` that start warm: the documents run sixty.

    PyTorch with CUDA cannot be forked once it has looked for a GPU: there they are the genuine ones.
    """
    if torch.cuda.is_available():
        yield None
        return
    with warm.commands({**os.environ, **ENVIRONMENT}) as folder:
        yield folder


@pytest.fixture(scope="module")
def workshops(tmp_path_factory, programs):
    """Return what runs all blocks of a document, once, and gives the directory they ran in."""
    done: dict[str, Workshop] = {}
    failed: set[str] = set()
    root: Path = tmp_path_factory.mktemp("documents")

    def visit(document: str) -> Workshop:
        assert document not in failed, f"the blocks of {document} failed before"
        if document not in done:
            failed.add(document)
            earlier = markdown.starts_after(document)
            workshop = Workshop(root / document.replace("/", "-"), visit(earlier) if earlier else None, programs)
            for block in markdown.blocks(document):
                if block.language not in DATA or block.directive:
                    workshop.run(block)
            failed.discard(document)
            done[document] = workshop
        return done[document]

    return visit


@pytest.mark.slow
@pytest.mark.parametrize("document", [name for name in markdown.DOCUMENTS if name not in TRANSLATIONS])
def test_blocks_run(document, workshops):
    workshops(document)


@pytest.mark.parametrize("document", markdown.DOCUMENTS)
def test_every_block_has_a_language(document):
    assert [block.place for block in markdown.blocks(document) if not block.language] == []


@pytest.mark.parametrize(("translation", "original"), TRANSLATIONS.items())
def test_translation_has_the_same_blocks(translation, original):
    mine, theirs = markdown.blocks(translation), markdown.blocks(original)
    assert [commands_of(block) for block in mine] == [commands_of(block) for block in theirs]
    assert [block.directive.split(",")[0] for block in mine] == [block.directive.split(",")[0] for block in theirs]


@pytest.mark.parametrize(("translation", "original"), TRANSLATIONS.items())
def test_translation_has_the_same_structure(translation, original):
    levels = [[part.level for part in markdown.sections(name)] for name in (translation, original)]
    rows = [Counter(line.count("|") for line in markdown.prose(name).splitlines() if line.startswith("|"))
            for name in (translation, original)]  # fmt: skip
    assert levels[0] == levels[1]
    assert rows[0] == rows[1]


def commands_of(block: markdown.Block) -> tuple[str, object]:
    """Return what a block does and shows; comments in text blocks may be translated."""
    return block.language, commands(block) if block.language == "console" else block.language in DATA or block.text


class TestMatching:
    @pytest.mark.parametrize(
        ("expected", "actual"),
        [
            ("", "anything"),
            ("one two", "one\n  two\n"),
            ("one ... four", "one two three four"),
            ("took 1.25 s", "took 17.0 s"),
            ("error 1.2e-05, 3 boxes", "error 0, 3 boxes"),
            ("limit 0.5", "limit inf"),
            ("rel L2 2.2e-07 1.8e-06", "max abs 1.5e-05 7e-05"),
            ("100 of 100 matched; 0.1 px", "800 of 800 matched; 0.3 px"),
            ("a (b) [c]*", "a (b) [c]*"),
        ],
    )
    def test_same(self, expected, actual):
        assert matches(expected, actual)

    @pytest.mark.parametrize(
        ("expected", "actual"),
        [
            ("one two", "one three"),
            ("one", "one two"),
            ("3 boxes", "4 boxes"),
            ("100 of 100 matched; 0.1 px", "799 of 800 matched; 0.3 px"),
            ("3 checks; 300 of 300 matched.", "3 checks; 100 of 100 matched."),
            ("took 1.25 s", "took long s"),
            ("one ... four", "one two three"),
        ],
    )
    def test_different(self, expected, actual):
        assert not matches(expected, actual)


class TestWarmPrograms:
    """They cannot be told from the genuine ones by what they do."""

    def run(self, folder: Path, programs: Path, text: str, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **changes}
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", text], cwd=folder, env=environment, input="of the caller",
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def test_streams_folder_environment_and_exit_code(self, tmp_path, programs):
        (tmp_path / "own.py").write_text("import own_too; print(own_too.x, __name__)")
        (tmp_path / "own_too.py").write_text("x = 7")
        done = self.run(tmp_path, programs, "python own.py one | tr 7 8; python -c 'import sys; print(sys.argv)' two")
        assert (done.stdout, done.stderr, done.returncode) == ("8 __main__\n['-c', 'two']\n", "", 0)
        code = "import os, sys; print(sys.stdin.read(), os.environ['X'], os.getcwd()); sys.exit(3)"
        done = self.run(tmp_path, programs, f'python -c "{code}"', X="1")
        assert (done.stdout, done.stderr, done.returncode) == (f"of the caller 1 {tmp_path}\n", "", 3)

    def test_errors_and_signals(self, tmp_path, programs):
        done = self.run(tmp_path, programs, "python -c 1/0")
        assert done.returncode == 1
        assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
        assert self.run(tmp_path, programs, "python -c 'import os; os.kill(os.getpid(), 9)'").returncode == 137
        done = self.run(tmp_path, programs, "python -c 'import sys; sys.exit(\"told\")'")
        assert (done.stderr, done.returncode) == ("told\n", 1)
        assert self.run(tmp_path, programs, "convkit convert").returncode == 2
        assert self.run(tmp_path, programs, "pytest --no-such-option").returncode == 4

    def test_processes_are_their_own(self, tmp_path, programs):
        code = "import sys, json; print(hasattr(json, 'mark'), 'convkit' in sys.modules); json.mark = 1"
        assert [self.run(tmp_path, programs, f'python -c "{code}"').stdout for _ in range(2)] == ["False False\n"] * 2


class TestRunning:
    def block(self, text: str, language: str = "console", directive: str = "") -> markdown.Block:
        return markdown.Block("page.md", 1, language, text, directive)

    def test_output_is_compared(self, tmp_path):
        workshop = Workshop(tmp_path / "w")
        assert workshop.run(self.block("$ echo one\none\n$ echo two\n")) == "run"
        with pytest.raises(AssertionError, match="another output"):
            workshop.run(self.block("$ echo one\ntwo\n"))

    def test_exit_code_is_compared(self, tmp_path):
        workshop = Workshop(tmp_path / "w")
        workshop.run(self.block("$ true\n$ exit 4\n", directive="exit 4"))
        with pytest.raises(AssertionError, match="exit code 4"):
            workshop.run(self.block("$ exit 4\n$ true\n"))

    def test_blocks_share_a_directory(self, tmp_path):
        workshop = Workshop(tmp_path / "w")
        workshop.run(self.block("x = 1\n", "text", "file one/two.py"))
        workshop.run(self.block("import sys; sys.path.insert(0, 'one')\nimport two\nprint(two.x)\n", "python"))
        workshop.run(self.block("1\n", "text", "output"))

    def test_a_later_document_goes_on_in_a_copy(self, tmp_path):
        first = Workshop(tmp_path / "first")
        first.run(self.block("$ echo one > note\n"))
        second = Workshop(tmp_path / "second", first)
        second.run(self.block("$ cat note && rm note\none\n"))
        assert (first.folder / "note").is_file()

    def test_the_repository_is_reachable_and_safe(self, tmp_path):
        workshop = Workshop(tmp_path / "w")
        workshop.run(self.block("$ head -1 LICENSE && ls convkit/hookspecs.py\n...\n"))
        with pytest.raises(AssertionError, match="would change the repository"):
            workshop.run(self.block("", "text", "file convkit/new.py"))

    def test_long_commands_go_on_after_a_backslash(self):
        (command,) = commands(self.block("$ echo one \\\n    two\none two\n"))
        assert command.text == "echo one \\\n    two"
        assert command.output == "one two\n"

    @pytest.mark.parametrize("directive", ["skip", "skip,", "skip, no"])
    def test_a_skip_needs_a_reason(self, tmp_path, directive):
        with pytest.raises(AssertionError, match="without a reason"):
            Workshop(tmp_path / "w").run(self.block("$ pip install x\n", directive=directive))

    def test_other_languages_need_a_directive(self, tmp_path):
        with pytest.raises(AssertionError, match="needs a test directive"):
            Workshop(tmp_path / "w").run(self.block("a = 1\n", "toml"))
