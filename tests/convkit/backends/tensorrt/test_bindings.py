"""Every name that convkit uses of NVIDIA's bindings is there, and only one module uses them."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from convkit.backends.tensorrt import FLAVOURS, _bindings
from convkit.backends.tensorrt._layers import ATTENTION, LAYERS
from convkit.backends.tensorrt._replay import REPLAYS

API = importlib.import_module(FLAVOURS["tensorrt-rtx"].module)


def names_of_the_api() -> set[str]:
    """Return what ``_bindings.py`` takes from the module: ``api.Builder``, ``self.api.X.Y`` …"""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(_bindings))):
        if isinstance(node, ast.Attribute):
            owner = node.value
            if (isinstance(owner, ast.Name) and owner.id == "api") or (
                isinstance(owner, ast.Attribute) and owner.attr == "api"
            ):
                found.add(node.attr)
    return found


def test_names_exist():
    names = names_of_the_api()
    assert {"Builder", "OnnxParser", "ILogger"} <= names
    assert {name for name in names if not hasattr(API, name)} == set()


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_have_what_is_read_of_them(kind):
    layer = LAYERS[kind]
    cls = getattr(API, layer.cls)
    assert kind in API.LayerType.__members__
    wanted = {*layer.attributes, *layer.weights, *filter(None, [layer.owner])}
    assert {name for name in wanted if not hasattr(cls, name)} == set()


def test_attention_has_what_is_read_of_it():
    assert {name for name in ATTENTION if not hasattr(API.IAttention, name)} == set()


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
