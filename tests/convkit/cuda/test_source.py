"""Flat sources: each include once, in place, with the compiler's messages still at the right lines."""

from __future__ import annotations

import pytest

from convkit.cuda import flatten
from convkit.errors import KernelError


@pytest.fixture
def folder(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / name.replace("_", ".", 1)).write_text(text, encoding="utf-8")
        return tmp_path / "a.cu"

    return write


def test_each_file_once_and_in_place(folder):
    path = folder(
        a_cu='#include "b.cuh"\n#  include "c.cuh"  // why\nint a;\n',
        b_cuh='#include "c.cuh"\nint b;\n',
        c_cuh="int c;\n",
    )
    lines = flatten(path).splitlines()
    assert [line for line in lines if not line.startswith("#line")] == ["int c;", "int b;", "int a;"]
    assert lines[lines.index("int a;") - 1] == '#line 3 "a.cu"'
    assert lines[lines.index("int b;") - 1] == '#line 2 "b.cuh"'


def test_own_folder_before_the_packages(folder):
    path = folder(a_cu='#include "convkit.cuh"\n', convkit_cuh="int mine;\n")
    assert "int mine;" in flatten(path)


def test_the_packages_header_is_found(folder):
    assert "struct half_t" in flatten(folder(a_cu='#include "convkit.cuh"\n'))


def test_text_is_the_same_wherever_it_lies(folder, tmp_path):
    path = folder(a_cu='#include "b.cuh"\n', b_cuh="int b;\n")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("a.cu", "b.cuh"):
        (moved / name).write_bytes((tmp_path / name).read_bytes())
    assert flatten(path) == flatten(moved / "a.cu")


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"a_cu": '#include "a.cu"\n'}, r"a.cu, line 1: .* circular: a.cu -> a.cu"),
        ({"a_cu": '\n#include "b.cuh"\n', "b_cuh": '#include "a.cu"\n'}, r"b.cuh, line 1: .* a.cu -> b.cuh -> a.cu"),
        ({"a_cu": '\n#include "d.cuh"\n'}, r"a.cu, line 2: there is no 'd.cuh'"),
        ({"a_cu": "#include <cuda_fp16.h>\n"}, r"a.cu, line 1: a kernel cannot include <cuda_fp16.h>"),
        ({"a_cu": "#include HEADER\n"}, "a kernel cannot include HEADER"),
        ({}, r"a.cu cannot be read"),
    ],
)
def test_errors_name_the_place(folder, files, text):
    with pytest.raises(KernelError, match=text):
        flatten(folder(**files))
