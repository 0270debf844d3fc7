"""The names that convkit takes of NVIDIA's bindings, read from the syntax trees of the modules that use them.

`USERS` lists those modules. For each it says of which class every variable is; a variable that it does not know is an
error, so that no use goes unseen.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

FULL = "tensorrt"
RTX = "tensorrt-rtx"
PLUGIN = "plugin"
"""The owner of what ``tensorrt.plugin`` has; its classes are ``plugin.NAME``."""


@dataclass(frozen=True)
class User:
    """A module that uses the bindings.

    ``classes`` has the class of what a variable, attribute or called function is: an empty string for the bindings
    themselves, `PLUGIN` for ``tensorrt.plugin``, ``A|B`` for what may be either, ``A/B`` for an A that becomes a B.
    None is for objects of convkit, whose attributes are looked up here as well. ``others`` are not NVIDIA's, nor is
    what they have; imports, builtins and what the module defines need not be listed. ``function.name`` takes
    precedence in that function. ``extra`` returns names from tables.
    """

    module: str
    classes: Mapping[str, str | None]
    others: frozenset[str] = frozenset()
    extra: Callable[[], set[str]] = set
    flavours: tuple[str, ...] = (FULL, RTX)

    def source(self) -> str:
        """Return the text of the module."""
        spec = importlib.util.find_spec(self.module)
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).read_text(encoding="utf-8")

    def names(self) -> set[str]:
        """Return ``Runtime``, ``ICudaEngine.get_tensor_name``, ``TensorIOMode.INPUT`` …

        Raises:
            LookupError: it is not said what a variable is.
        """
        return set(_Reader(self, ast.parse(self.source())).names()) | self.extra()


class _Reader:
    """Reads one module."""

    def __init__(self, user: User, tree: ast.Module) -> None:
        self.user, self.tree = user, tree
        self.known = {"self", "cls"}
        self.foreign = set(dir(builtins))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
                own = isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0].startswith("convkit")
                (self.known if own else self.foreign).update(names)
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self.known.add(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self.known |= {target.id for target in targets if isinstance(target, ast.Name)}

    def names(self) -> Iterator[str]:
        yield from self.read(self.tree, "")

    def read(self, node: ast.AST, function: str) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        elif isinstance(node, ast.ClassDef):
            yield from self.overridden(node, function)
        elif isinstance(node, ast.Attribute):
            yield from self.taken(node.value, node.attr, function)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant):
                yield from self.taken(node.args[0], str(name.value), function)
        for child in ast.iter_child_nodes(node):
            yield from self.read(child, function)

    def taken(self, value: ast.expr, attribute: str, function: str) -> Iterator[str]:
        owner = self.owner(value, function)
        for each in () if owner is None else owner.split("|"):
            yield f"{each}.{attribute}" if each else attribute

    def overridden(self, node: ast.ClassDef, function: str) -> Iterator[str]:
        """Yield the methods of a class of NVIDIA's that a class here defines anew."""
        for base in node.bases:
            owner = self.owner(base, function)
            for method in node.body if owner else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{owner}.{method.name}"

    def owner(self, value: ast.expr, function: str) -> str | None:
        """Return the class that an expression is of, an empty string for the module, None for what is not NVIDIA's."""
        if _root(value) in self.foreign - {key.rpartition(".")[2] for key in self.user.classes}:
            return None
        if isinstance(value, (ast.Call, ast.Subscript)):
            return self.owner(value.func if isinstance(value, ast.Call) else value.value, function)
        if isinstance(value, ast.Attribute):
            outer = self.owner(value.value, function)
            if outer == "":
                return value.attr
            if outer == PLUGIN:
                return f"{PLUGIN}.{value.attr}"
            name = value.attr
        elif isinstance(value, ast.Name):
            name = value.id
        else:
            return None
        for key in (f"{function}.{name}", name):
            if key in self.user.classes:
                return self.user.classes[key]
            if key in self.user.others:
                return None
        root = _root(value)
        if root in self.user.others or f"{function}.{root}" in self.user.others:
            return None
        if isinstance(value, ast.Name) and name in self.known:
            return None
        raise LookupError(f"{self.user.module}, {function}(): is {name!r} of the bindings? Say so in {__name__}.")


def _root(value: ast.expr) -> str:
    """Return the variable that an expression starts with; a builtin's name for a literal."""
    while isinstance(value, (ast.Attribute, ast.Call, ast.Subscript)):
        value = value.func if isinstance(value, ast.Call) else value.value
    return value.id if isinstance(value, ast.Name) else "object"


def _from_tables() -> set[str]:
    """Return the names that the table of layers has, and those made of targets and settings."""
    from convkit.backends.tensorrt import FLAVOURS
    from convkit.backends.tensorrt._layers import ATTENTION, LAYERS
    from convkit.backends.tensorrt._layers import PLUGIN as CORE
    from convkit.backends.tensorrt._options import HARDWARE

    found = {f"LayerType.{kind}" for kind in LAYERS} | {f"IAttention.{name}" for name in ATTENTION}
    for kind in LAYERS.values():
        found |= {kind.cls}
        found |= {f"{kind.cls}.{name}" for name in (*kind.attributes, *kind.weights, *filter(None, [kind.owner]))}
    found |= {f"IPluginV3OneCore.{name}" for name in CORE}
    found |= {f"HardwareCompatibilityLevel.{name.upper().replace('-', '_')}" for name in HARDWARE}
    return found | {f"ComputeCapability.{target.upper()}" for target in FLAVOURS[RTX].targets}


RUNTIME = User(
    "convkit.backends.tensorrt._runtime",
    {
        "api": "", "_api": "", "_runtime": "Runtime", "runtime": "Runtime", "engine": "ICudaEngine",
        "_engine": "ICudaEngine", "context": "IExecutionContext", "_context": "IExecutionContext",
        "config": "IRuntimeConfig", "cache": "IRuntimeCache", "graphs": "CudaGraphStrategy",
        "kernels": "DynamicShapesKernelSpecializationStrategy", "get_tensor_dtype": "DataType",
        "_owner": None, "_plugins": None, "_source": None,
    },
    frozenset({
        "_cache_file", "addresses", "flavour", "lines", "message", "shapes", "sinks", "_profile.tensor",
    }),
)  # fmt: skip
BINDINGS = User(
    "convkit.backends.tensorrt._bindings",
    {
        "api": "", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
        "config": "IBuilderConfig", "profile": "IOptimizationProfile", "tensor": "ITensor",
        "severity": "ILogger.Severity", "_parser_errors.error": "ParserError", "code": "ErrorCode",
        "times": "ITimingCache", "bindings": None,
    },
    frozenset({
        "file", "flavour", "found", "model", "name", "node", "phases", "problems", "settings", "sinks", "spec",
        "target", "text", "versions",
    }),
)  # fmt: skip
READER = User(
    "convkit.backends.tensorrt._reader",
    {
        "api": "", "network": "INetworkDefinition", "tensor": "ITensor", "dtype": "DataType",
        "layer": "ILayer/IPluginV3Layer", "type": "LayerType", "plugin": "IPluginV3", "_raw_bytes.weights": "Weights",
        "_group.owner": "ILoop|IIfConditional|IAttention", "_plugin.field": "PluginField",
        "_plugin.runtime": "IPluginV3OneRuntime", "_plugin.type": None,
    },
    frozenset({
        "_plugin.attributes", "_plugin.core", "alive", "data", "group", "known", "match", "tensors", "value",
        "_weights.weights",  # an array of NumPy where that has the type, else Weights, which `_raw_bytes` reads
    }),
    extra=_from_tables,
)  # fmt: skip
REGISTRATIONS = User("convkit.backends.tensorrt._registrations", {"api": "", "bindings": None},
                     frozenset({"_alive", "_failures"}))  # fmt: skip
AOT = User(
    "convkit_plugins.dcnv2.tensorrt._aot",
    {
        "api": "", "plugins": PLUGIN, "x": "plugin.TensorDesc", "offset": "plugin.TensorDesc",
        "out": "plugin.TensorDesc", "outputs": "plugin.TensorDesc", "tensor": "plugin.TensorDesc",
        "shape": "plugin.Shape", "like": "plugin.TensorDesc",
        "extra": "plugin.SymIntExprs", "dtype": "DataType", "registry": "IPluginRegistry",
    },
    frozenset({
        "bias", "config", "each", "error", "expected", "given", "kinds", "launch", "layer", "declared", "lowest",
        "names", "read", "settings", "shapes", "signature", "tactics", "failures", "types", "_check.x", "_check.offset",
        "_type_of.dtype", "describe.axis", "variant", "parameters",
    }),
    flavours=(FULL,),
)  # fmt: skip
CREATOR = User(
    "convkit_plugins.dcnv2.tensorrt._creator",
    {
        "api": "", "formats": "TensorFormat", "registry": "IPluginRegistry", "description": "PluginTensorDesc",
        "input_desc": "PluginTensorDesc", "output_desc": "PluginTensorDesc", "x": "PluginTensorDesc",
        "out": "PluginTensorDesc", "here": "PluginTensorDesc", "first": "PluginTensorDesc", "desc": "PluginTensorDesc",
        "inputs": "DynamicPluginTensorDesc", "tensors": "DynamicPluginTensorDesc",
        "configure_plugin.tensor": "DynamicPluginTensorDesc", "on_shape_change.inputs": "PluginTensorDesc",
        "on_shape_change.tensor": "PluginTensorDesc", "field": "PluginField", "size": "IDimensionExpr",
    },
    frozenset({"base", "creator", "execution", "failures", "settings", "values"}),
)  # fmt: skip
LIBRARY = User("convkit.backends.tensorrt._library",
               {"api": "", "registry": "IPluginRegistry", "creator": "IPluginCreatorV3One", "bindings": None},
               frozenset({"_trouble.error", "folder", "lines", "link", "registrations", "result", "sinks"}),
               )  # fmt: skip
ARGUMENT_ORDER = User(
    "convkit.backends.tensorrt._argument_order_plugin",
    {
        "api": "", "trtp": PLUGIN, "first": "plugin.TensorDesc",
        "second": "plugin.TensorDesc",
        "image": None, "variant": None,
    },
    frozenset({"describe", "failures", "kernel"}),
    flavours=(FULL,),
)  # fmt: skip
USERS = (AOT, ARGUMENT_ORDER, BINDINGS, CREATOR, LIBRARY, READER, REGISTRATIONS, RUNTIME)
"""Every module that uses the bindings: add to it, and `users_found` finds what is missing."""
RTX_ONLY = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION", "ComputeCapability", "ComputeCapability.SM120", "ComputeCapability.SM121",
    "ComputeCapability.SM75", "ComputeCapability.SM80", "ComputeCapability.SM86", "ComputeCapability.SM89",
    "CudaGraphStrategy", "CudaGraphStrategy.DISABLED", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
    "DynamicShapesKernelSpecializationStrategy", "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability",
    "IExecutionContext.is_stream_capturable", "IRuntimeCache", "IRuntimeCache.deserialize", "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy", "IRuntimeConfig.set_runtime_cache",
}  # fmt: skip
"""What is used only where a flavour builds without a GPU and compiles kernels on the GPU that runs the engine."""
_SINCE_11 = {"IAttention.causal_kind", "IAttention.key_value_form", "IAttention.query_form"}
_SINCE_10_16 = {
    "IAttention.name", "IAttention.norm_op", "IAttentionInputLayer", "IAttentionInputLayer.attention",
    "IAttentionOutputLayer", "IAttentionOutputLayer.attention", "IDequantizeLayer.block_shape",
    "INormalizationLayer.is_v2", "IQuantizeLayer.block_shape", "IRotaryEmbeddingLayer",
    "IRotaryEmbeddingLayer.interleaved", "IRotaryEmbeddingLayer.rotary_embedding_dim", "LayerType.ATTENTION_INPUT",
    "LayerType.ATTENTION_OUTPUT", "LayerType.ROTARY_EMBEDDING",
}  # fmt: skip
LATER = {"10.13.3.9": _SINCE_10_16 | _SINCE_11, "10.16.1.11": _SINCE_11}
"""What older versions lack: layers that their networks cannot have, and attributes that are read as None."""


_VARIABLES = ("api", "_api", "trt", "trtp")
_MENTIONED = re.compile(rf"\b({'|'.join(_VARIABLES)}|import tensorrt\w*|from tensorrt\w*)\b")


def users_found(root: Path) -> set[str]:
    """Return the modules of the project in which the bindings have a name, or are imported."""
    found = set()
    for package in ("convkit", "convkit_models", "convkit_plugins"):
        for path in (root / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if _MENTIONED.search(text) and any(map(_uses, ast.walk(ast.parse(text)))):
                parts = path.relative_to(root).with_suffix("").parts
                found.add(".".join(parts).removesuffix(".__init__"))
    return found


def _uses(node: ast.AST) -> bool:
    name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "attr", None)
    if isinstance(node, (ast.Name, ast.Attribute, ast.arg)) and name in _VARIABLES:
        return True
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        modules = [node.module or ""]
    return any(module.partition(".")[0].startswith("tensorrt") for module in modules)


def names_of(api: ModuleType, plugin: ModuleType | None = None) -> dict[str, list[str]]:
    """Return the names of bindings by owner: an empty string for the module, its classes, `PLUGIN` and its classes."""
    found = {"": dir(api)}
    for prefix, module in (("", api), (PLUGIN, plugin)):
        if module is not None:
            found[prefix] = dir(module)
            dot = f"{prefix}." if prefix else ""
            for name, value in vars(module).items():
                if isinstance(value, type):
                    found[dot + name] = dir(value)
                    found |= {
                        f"{dot}{name}.{key}": dir(each) for key, each in vars(value).items() if isinstance(each, type)
                    }
    return found


def missing_names(used: set[str], names: Mapping[str, Any]) -> set[str]:
    """Return the used names that bindings lack, given their names by owner."""
    missing = set()
    for name in used:
        owner, _, attribute = name.rpartition(".")
        if all(attribute not in names.get(each, ()) for each in owner.split("/")):
            missing.add(name)
    return missing
