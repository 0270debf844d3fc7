"""Known errors: read from data, found wherever they occur, each with its line; and who of several plugins is heard."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.plugins import registered

from convkit import KnownError, hookimpl
from convkit.doctor import explain, search
from convkit.errors import PluginError

DISK = KnownError(r"No space left on device", "the disk is full", "free some space")
OPSET = KnownError(r"opset (\d+) is under development", "the opset is too new", "use a lower --opset")
MULTI = KnownError(r"first\nsecond", "two lines", "none")

LOG = """loading model
[E:onnxruntime] ONNX Opset 26 is under development and support is limited
OSError: [Errno 28] no space left on device: 'x'
"""


class TestSearch:
    def test_every_error_that_occurs_is_returned_with_its_line(self) -> None:
        assert search(LOG, [DISK, MULTI, OPSET]) == [
            (DISK, "OSError: [Errno 28] no space left on device: 'x'"),
            (OPSET, "[E:onnxruntime] ONNX Opset 26 is under development and support is limited"),
        ]

    def test_a_pattern_may_span_lines_and_be_at_either_end_of_the_text(self) -> None:
        assert search("first\nsecond", [MULTI]) == [(MULTI, "first\nsecond")]
        assert search("No space left on device", [DISK]) == [(DISK, "No space left on device")]

    def test_an_unknown_text_has_none(self) -> None:
        assert search("everything is fine", [DISK, OPSET]) == []
        assert search("", [DISK]) == []


class TestFile:
    def test_errors_are_read_in_order_and_alternatives_joined(self, tmp_path: Path) -> None:
        file = tmp_path / "errors.toml"
        file.write_text(
            """[[error]]
            pattern = 'no \\w+ here'
            cause = "größer"
            cure = 'none'
            [[error]]
            pattern = ["a (b|c)", 'd']
            cause = "x"
            cure = "y"
            """,
            encoding="utf-8",
        )
        assert KnownError.read(file) == (
            KnownError(r"no \w+ here", "größer", "none"),
            KnownError("a (b|c)|d", "x", "y"),
        )

    @pytest.mark.parametrize(
        "text",
        ["[[error]]\npattern = 'x'\ncause = 'y'", "[[error]]\npattern = 'x'\ncause = 'y'\ncure = 'z'\ncuer = ''", "x"],
    )
    def test_an_entry_that_is_incomplete_or_has_more_is_an_error_of_its_plugin(self, text: str, tmp_path: Path) -> None:
        file = tmp_path / "errors.toml"
        file.write_text(text)

        class Careless:
            @hookimpl
            def convkit_known_errors(self) -> Iterable[KnownError]:
                return KnownError.read(file)

        with registered(Careless(), "careless"), pytest.raises(PluginError, match="'careless' failed"):
            explain("text")

    def test_a_pattern_that_is_no_regular_expression_is_refused(self) -> None:
        with pytest.raises(re.error):
            KnownError("(", "", "")


class Explaining:
    def __init__(self, *errors: KnownError) -> None:
        self.errors = errors

    @hookimpl
    def convkit_known_errors(self) -> Iterable[KnownError]:
        return self.errors


class TestExplain:
    def test_a_plugin_knows_better_than_the_core(self) -> None:
        text = "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"
        assert [match.plugin for match in explain(text)] == ["known_errors"]
        special = KnownError("out of memory", "the frobnicator is greedy", "feed it less")
        with registered(Explaining(special), "special"):
            (match,) = explain(text)
        assert (match.plugin, match.error) == ("special", special)

    def test_errors_come_in_their_order_in_the_text(self) -> None:
        text = "a: No space left on device\nb\nc: Torch not compiled with CUDA enabled\n"
        swapped = "\n".join(reversed(text.splitlines()))
        assert [match.line[0] for match in explain(text)] == ["a", "c"]
        assert [match.line[0] for match in explain(swapped)] == ["c", "a"]

    def test_nothing_is_known_of_an_ordinary_text(self) -> None:
        assert explain("all is well\n3 detections\n") == []
