"""Broad handlers are where code of others is called that may raise anything, and nowhere else.

What reads data parses it, checks it, and then uses it; it catches what that raises by name.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import convkit

ROOT = Path(convkit.__file__).parents[1]
BROAD = {"Exception", "BaseException"}

CALLS = {
    "convkit/backends/tensorrt/_argument_order_plugin.py": "TensorRT, which swallows what a plugin raises",
    "convkit/backends/tensorrt/_bindings.py": "TensorRT",
    "convkit/backends/tensorrt/_gpu.py": "CUDA: a context is given back whatever happens",
    "convkit/backends/tensorrt/_library.py": "TensorRT",
    "convkit/backends/tensorrt/_reader.py": "code of plugins",
    "convkit/backends/tensorrt/_reference.py": "runners of a reference",
    "convkit/backends/tensorrt/_registrations.py": "code of plugins",
    "convkit/backends/torch/_program.py": "code of plugins",
    "convkit/backends/torch/_session.py": "PyTorch",
    "convkit/benchmarking/_worker.py": "the last line of a child process",
    "convkit/cli/__init__.py": "the last line",
    "convkit/conversion/_export.py": "PyTorch's exporter, and code of plugins in it",
    "convkit/doctor/_plugins.py": "libraries that do not load",
    "convkit/plugins.py": "code of plugins",
    "convkit/proof/_beside.py": "code of adapters, which runs again where its errors show",
    "convkit_plugins/dcnv2/tensorrt/_aot.py": "TensorRT, which swallows what a plugin raises",
    "convkit_plugins/dcnv2/tensorrt/_creator.py": "TensorRT, which swallows what a plugin raises",
    "convkit_plugins/dcnv2/tensorrt/_guard.py": "TensorRT, which swallows what a plugin raises",
}
"""Modules with broad handlers, and what they call or are called by there."""


def broad_handlers(source: str) -> int:
    """Return the number of handlers that catch everything, ``suppress(Exception)`` included."""
    found = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            found += any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in kinds)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names = {argument.id for argument in node.args if isinstance(argument, ast.Name)}
            found += called == "suppress" and bool(names & BROAD)
    return found


def test_the_search_knows_every_form():
    assert broad_handlers("try: f()\nexcept: pass") == 1
    assert broad_handlers("try: f()\nexcept (ValueError, Exception) as e: pass") == 1
    assert broad_handlers("import contextlib\nwith contextlib.suppress(Exception): f()") == 1
    assert broad_handlers("try: f()\nexcept ValueError: pass") == 0


def test_broad_handlers_are_where_code_of_others_is_called():
    found = Counter[str]()
    for room in ("convkit", "convkit_models", "convkit_plugins"):
        for file in (ROOT / room).rglob("*.py"):
            found[file.relative_to(ROOT).as_posix()] += broad_handlers(file.read_text(encoding="utf-8"))
    assert set(+found) == set(CALLS), "narrow the handler, or say here whose code it calls"
