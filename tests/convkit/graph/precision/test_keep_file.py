"""The file of nodes that stay in float32: written, reviewed by people, and read again."""

from __future__ import annotations

import codecs

import pytest
from support.graphs import make_model, node

from convkit.errors import ConversionError, OutputError, SettingError
from convkit.graph.precision import keep_file_text, read_keep_file, write_keep_file


def graph(*names: str):
    """Return a chain of nodes with these names."""
    nodes = [node("Relu", [f"t{place}"], [f"t{place + 1}"], name=name) for place, name in enumerate(names)]
    return make_model(nodes, {"t0": [2]}, {f"t{len(names)}": [2]})


MODEL = graph("backbone/conv1", "head.0", "#odd", "with space #2")


def test_what_is_written_is_read_with_every_name_as_it_stands(tmp_path):
    path = tmp_path / "keep.txt"
    reasons = {"head.0": "local error 3.2e-3\nof two lines", "#odd": "why not", "with space #2": ""}
    write_keep_file(path, reasons, ["made of model.onnx", ""])
    assert read_keep_file(path, MODEL) == set(reasons)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# made of model.onnx\n#\n")
    assert "head.0         # local error 3.2e-3 of two lines\n" in text
    assert text == keep_file_text(reasons, ["made of model.onnx", ""])


@pytest.mark.parametrize(("mark", "encoding"), [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")])
def test_what_people_write_is_read(mark, encoding, tmp_path):
    path = tmp_path / "keep.txt"
    text = "# ours\r\n\r\n  head.0\t# it overflows # badly\r\nhead.0\r\nbackbone/conv1   \r\n#head.0"
    path.write_bytes(mark + text.encode(encoding))
    assert read_keep_file(path, MODEL) == {"head.0", "backbone/conv1"}


def test_an_empty_file_keeps_nothing(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text("# nothing\n")
    assert read_keep_file(path, MODEL) == frozenset()


def test_unknown_names_are_listed_with_close_ones_and_their_lines(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text("head.0\nbackbone/conv2  # gone\nnowhere at all\n")
    with pytest.raises(SettingError) as caught:
        read_keep_file(path, MODEL)
    assert "2 names" in caught.value.message
    assert "line 2: 'backbone/conv2' Did you mean 'backbone/conv1'?; line 3: 'nowhere at all'" in caught.value.message
    assert "convkit bisect" in caught.value.hint
    path.write_text("\n".join(f"unknown{number}" for number in range(9)))
    with pytest.raises(SettingError, match="and 4 more"):
        read_keep_file(path, MODEL)


def test_what_is_no_text_or_no_file_is_refused(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_bytes(b"\xff\x80\x81")
    with pytest.raises(SettingError, match="no text in UTF-8"):
        read_keep_file(path, MODEL)
    with pytest.raises(SettingError, match="No such file"):
        read_keep_file(tmp_path / "absent.txt", MODEL)
    with pytest.raises(SettingError, match="directory"):
        read_keep_file(tmp_path, MODEL)


@pytest.mark.parametrize("name", ["", "two\nlines", " space", "\ufeffmark", "form\x0cfeed"])
def test_a_name_that_cannot_stand_in_a_line_is_not_written(name, tmp_path):
    path = tmp_path / "keep.txt"
    with pytest.raises(ConversionError, match="cannot stand"):
        write_keep_file(path, {"good": "", name: ""})
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        write_keep_file(tmp_path / "file" / "keep.txt", {"a": ""})
