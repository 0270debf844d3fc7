"""The names that convkit's runtime takes of NVIDIA's bindings, read from its syntax tree."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLASSES = {
    "api": "", "_api": "", "runtime": "Runtime", "engine": "ICudaEngine", "_engine": "ICudaEngine",
    "context": "IExecutionContext", "_context": "IExecutionContext", "config": "IRuntimeConfig",
    "cache": "IRuntimeCache", "graphs": "CudaGraphStrategy", "kernels": "DynamicShapesKernelSpecializationStrategy",
}  # fmt: skip
"""The class of what each variable and attribute of ``_runtime.py`` is; the module itself has none."""
RTX_ONLY = {
    "CudaGraphStrategy", "CudaGraphStrategy.DISABLED", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
    "DynamicShapesKernelSpecializationStrategy", "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IExecutionContext.is_stream_capturable", "IRuntimeCache.deserialize", "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy", "IRuntimeConfig.set_runtime_cache",
}  # fmt: skip
"""What ``_runtime.py`` uses only of flavours that compile kernels on the GPU."""


def used_names() -> set[str]:
    """Return ``Runtime``, ``ICudaEngine.get_tensor_name``, ``TensorIOMode.INPUT`` …"""
    spec = importlib.util.find_spec("convkit.backends.tensorrt")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("_runtime.py").read_text(encoding="utf-8")
    return set(_names(ast.parse(source)))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (owner := _owner(node.value)) is not None:
            yield f"{owner}.{node.attr}" if owner else node.attr


def _owner(value: ast.expr) -> str | None:
    """Return the class that an expression is of, an empty string for the module, None for what is not NVIDIA's."""
    if isinstance(value, ast.Attribute) and _owner(value.value) == "":
        return value.attr
    name = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
    return CLASSES.get(name)


def missing_names(api: Any) -> set[str]:
    """Return the names that a module of bindings lacks."""
    missing = set()
    for name in used_names():
        owner, _, attribute = name.rpartition(".")
        found = getattr(api, owner, None) if owner else api
        if found is None or not hasattr(found, attribute):
            missing.add(name)
    return missing
