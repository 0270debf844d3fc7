"""The contract with plugins: every hook is documented in one sentence and specified once."""

from __future__ import annotations

import inspect

import pytest
from support.plugins import hook_names

from convkit import hookspecs
from convkit.plugins import PluginManager

HOOKS = {
    "convkit_adapters": (),
    "convkit_options": (),
    "convkit_export_patches": ("adapter", "model", "target"),
    "convkit_onnx_translations": ("target",),
    "convkit_graph_rewrites": ("adapter", "target"),
    "convkit_preprocess": ("spec",),
    "convkit_decode": ("spec",),
    "convkit_tensorrt_plugins": ("target",),
    "convkit_engine_probes": (),
    "convkit_backends": (),
    "convkit_torch_operators": (),
    "convkit_commands": ("app",),
    "convkit_known_errors": (),
}
"""Names and arguments are a promise to plugins: a change here breaks theirs."""


def test_hooks_and_their_arguments_are_those_that_plugins_rely_on():
    found = {name: tuple(inspect.signature(getattr(hookspecs, name)).parameters) for name in hook_names()}
    assert found == HOOKS


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_has_one_short_docstring(name):
    text = inspect.getdoc(getattr(hookspecs, name))
    assert text
    assert "\n" not in text
    assert text.endswith(".")
    assert 20 <= len(text) <= 110


def test_only_preprocess_and_decode_stop_at_the_first_answer():
    hook = PluginManager().pluggy.hook
    first = {name for name in hook_names() if getattr(hook, name).spec.opts["firstresult"]}
    assert first == {"convkit_preprocess", "convkit_decode"}
