"""Only one module imports NVIDIA's bindings, and it reads every layer that is replayed."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from convkit.backends.tensorrt import _bindings
from convkit.backends.tensorrt._layers import LAYERS
from convkit.backends.tensorrt._replay import REPLAYS


def test_every_layer_that_is_replayed_is_read():
    assert {key.split()[0] for key in REPLAYS} <= {*LAYERS, "KV_CACHE_UPDATE"}


def test_no_other_module_imports_the_bindings():
    package = Path(inspect.getfile(_bindings)).parent
    users = {
        path.name
        for path in package.rglob("*.py")
        if "import_module(flavour.module)" in path.read_text(encoding="utf-8")
    }
    assert users == {"_bindings.py"}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("tensorrt") for name in imported), path
