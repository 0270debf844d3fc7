"""Readers of raw inputs: what they write they read, what they cannot read they name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convkit import ArrayReader, ImageReader, InputError, JsonReader, Reader

DTYPES = st.sampled_from(["int64", "int32", "uint8", "bool", "float16", "float32", "float64"])
ARRAYS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_./]{0,8}", fullmatch=True),
    DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))),
    min_size=1,
    max_size=3,
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARRAYS)
def test_arrays_survive_a_file_with_names_dtypes_and_shapes(tmp_path, arrays):
    reader = ArrayReader()
    file = reader.write(arrays, tmp_path / "input_0")
    found = reader.read(file)
    assert file == tmp_path / "input_0.npz"
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS)
def test_documents_survive_a_file(tmp_path, document):
    reader = JsonReader()
    assert reader.read(reader.write(document, tmp_path / "input_0")) == document
    assert json.loads((tmp_path / "input_0.json").read_text(encoding="utf-8")) == document


def whole(folder: Path) -> bytes:
    ArrayReader().write({"a": np.arange(1000)}, folder / "whole")
    return (folder / "whole.npz").read_bytes()


def pickled(folder: Path) -> bytes:
    np.savez(folder / "object.npz", a=np.array([{"a": 1}], object))
    return (folder / "object.npz").read_bytes()


def one_array(folder: Path) -> bytes:
    np.save(folder / "one.npy", np.arange(4))
    return (folder / "one.npy").read_bytes()


BROKEN = {
    "nothing": lambda folder: b"",
    "text": lambda folder: b"hello",
    "the first half": lambda folder: whole(folder)[:200],
    "a damaged middle": lambda folder: whole(folder)[:150] + bytes(100) + whole(folder)[250:],
    "an .npy file": one_array,
    "pickled objects": pickled,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_npz_file_that_cannot_be_read_is_named_with_a_remedy(tmp_path, kind):
    path = tmp_path / "bad.npz"
    path.write_bytes(BROKEN[kind](tmp_path))
    with pytest.raises(InputError, match=r"bad\.npz is not a readable \.npz file") as caught:
        ArrayReader().read(path)
    assert "numpy.savez" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[1,]"])
def test_a_json_file_that_cannot_be_read_is_named_with_a_remedy(tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.json is not JSON") as caught:
        JsonReader().read(tmp_path / "bad.json")
    assert caught.value.hint


@pytest.mark.parametrize("reader", [ArrayReader(), JsonReader(), ImageReader()])
def test_a_file_that_is_not_there_is_named(reader, tmp_path):
    missing = tmp_path / f"gone{min(reader.suffixes)}"
    for read in (reader.read, lambda path: list(reader.frames([path]))):
        with pytest.raises(InputError, match="gone") as caught:
            read(missing)
        assert caught.value.hint


def test_a_folder_gives_its_own_kind_of_files_by_name(tmp_path):
    for name in ("b.npz", "A.NPZ", "c.npz"):
        with (tmp_path / name).open("wb") as stream:
            np.savez(stream, a=np.arange(3))
    (tmp_path / "d.json").write_text("1")
    (tmp_path / "._b.npz").write_bytes(b"attributes of macOS")
    (tmp_path / "e.npz").mkdir()
    assert [file.name for file in ArrayReader().find(tmp_path)] == ["A.NPZ", "b.npz", "c.npz"]
    frames = list(ArrayReader().frames([tmp_path / "c.npz", tmp_path]))
    assert [frame.name for frame in frames] == ["c.npz", "A.NPZ", "b.npz", "c.npz"]
    assert [frame.source for frame in frames] == [str(tmp_path / frame.name) for frame in frames]
    assert [file.name for file in JsonReader().find(tmp_path)] == ["d.json"]
    with pytest.raises(InputError, match="holds no images"):
        ImageReader().find(tmp_path)


def test_frames_are_read_one_at_a_time(tmp_path):
    ArrayReader().write({"a": np.arange(3)}, tmp_path / "a")
    (tmp_path / "b.npz").write_bytes(b"")
    stream = ArrayReader().frames([tmp_path])
    np.testing.assert_array_equal(next(stream).raw["a"], np.arange(3))
    with pytest.raises(InputError):
        next(stream)


def test_what_a_caller_may_give(tmp_path):
    arrays = {"a": np.arange(3)}
    file = ArrayReader().write(arrays, tmp_path / "a")
    for given_value in (file, str(file)):
        np.testing.assert_array_equal(ArrayReader().accept(given_value)["a"], arrays["a"])
    assert ArrayReader().accept(arrays) is arrays

    document = JsonReader().write({"text": "hello"}, tmp_path / "b")
    for given_value in (document, str(document)):
        assert JsonReader().accept(given_value) == {"text": "hello"}
    assert JsonReader().accept("a text is an input itself") == "a text is an input itself"
    assert JsonReader().accept({"text": "x.json"}) == {"text": "x.json"}


@pytest.mark.parametrize(
    ("reader", "value", "single"),
    [
        (ArrayReader(), {"a": np.zeros(3)}, True),
        (ArrayReader(), [{"a": np.zeros(3)}], False),
        (ArrayReader(), "a.npz", True),
        (JsonReader(), "a text", True),
        (JsonReader(), ("a", "b"), False),
        (ImageReader(), np.zeros((4, 4, 3), np.uint8), True),
        (ImageReader(), np.zeros((2, 4, 4, 3), np.uint8), False),
        (ImageReader(), [np.zeros((4, 4, 3), np.uint8)], False),
        (ImageReader(), b"bytes", True),
    ],
)
def test_one_input_is_told_from_a_list_of_them(reader: Reader, value, single):
    assert reader.is_single(value) is single
