"""ONNX Runtime's telemetry is off before anything of convkit imports it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import convkit

ROOT = Path(convkit.__file__).parents[1]
HOME = ROOT / "convkit" / "_onnxruntime.py"


def imports_onnxruntime(source: str) -> bool:
    """Return whether some statement, at any depth, imports the package onnxruntime or a part of it."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        if any(name.partition(".")[0] == "onnxruntime" for name in names):
            return True
    return False


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    import onnxruntime as ort", True),
        ("from onnxruntime.capi import _pybind_state", True),
        ("from convkit._onnxruntime import onnxruntime", False),
        ("import onnx, convkit.backends.onnxruntime", False),
    ],
)
def test_the_search_knows_every_form_of_import(source, found):
    assert imports_onnxruntime(source) is found


def test_onnxruntime_is_imported_in_one_place_only():
    files = [
        file
        for room in ("convkit", "convkit_models", "convkit_plugins", "benchmarks")
        for file in (ROOT / room).rglob("*.py")
    ]
    assert [file for file in files if imports_onnxruntime(file.read_text(encoding="utf-8"))] == [HOME]


SESSION = """
import sys
from pathlib import Path
from convkit.backends import Engine
from convkit.backends.onnxruntime import OnnxRuntime
OnnxRuntime().open(Engine("onnxruntime", Path(sys.argv[1]))).close()
"""
FOLD = """
import sys
import onnx, onnx_graphsurgeon
from convkit.graph._fold_constants import FoldConstants
assert FoldConstants().apply(onnx_graphsurgeon.import_onnx(onnx.load(sys.argv[1])), []) == 1
assert "onnxruntime" in sys.modules
"""


def left_behind(script: str, folder: Path, **environment: str) -> list[str]:
    """Run a script on a small model whose one node has constant inputs; return the files it leaves."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])],
        "constant",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.ones(3, np.float32), name) for name in "ab"],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), folder / "m.onnx")
    (folder / "home").mkdir()
    (folder / "tmp").mkdir()
    plain = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "home/.cache")}
    command = [sys.executable, "-c", script, str(folder / "m.onnx")]
    subprocess.run(command, env={**plain, **own, "PYTHONPATH": str(ROOT), **environment}, check=True)
    return sorted(str(file.relative_to(folder)) for part in ("home", "tmp") for file in (folder / part).rglob("*"))


@pytest.mark.parametrize("script", [SESSION, FOLD], ids=["a session", "constant folding"])
def test_no_file_of_telemetry_is_left_behind(script, tmp_path):
    assert left_behind(script, tmp_path) == []


def test_a_choice_of_the_user_is_kept(tmp_path):
    script = "import os, convkit._onnxruntime; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'"
    left_behind(script, tmp_path, ORT_DISABLE_TELEMETRY="0")
