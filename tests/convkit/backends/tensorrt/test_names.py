"""Every name that is taken of NVIDIA's bindings is in those of TensorRT-RTX and of three versions of full TensorRT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.tensorrt_bindings import VERSIONS, Unavailable, public_names
from support.tensorrt_names import (
    BINDINGS,
    FULL,
    LATER,
    PLUGIN,
    READER,
    RTX,
    RTX_ONLY,
    RUNTIME,
    USERS,
    User,
    missing_names,
    names_of,
    users_found,
)

from convkit.backends.tensorrt import FLAVOURS

ROOT = Path(__file__).parents[4]
EVERY = (RTX, *VERSIONS)


def known_names(version: str) -> dict[str, list[str]]:
    if version == RTX:
        return names_of(pytest.importorskip(FLAVOURS[RTX].module))
    try:
        return public_names(version)
    except Unavailable as reason:
        pytest.skip(str(reason))


def written(user: User) -> set[str]:
    """The names that a module has in its text, without those from tables."""
    return dataclasses.replace(user, extra=set).names()


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("user", USERS, ids=lambda user: user.module.rpartition(".")[2])
def test_every_name_exists(user, version):
    if (RTX if version == RTX else FULL) not in user.flavours:
        pytest.skip("not used with this flavour")
    lacking = missing_names(user.names(), known_names(version))
    assert lacking - RTX_ONLY == LATER.get(version, set()) & user.names()
    assert lacking & RTX_ONLY == (set() if version == RTX else RTX_ONLY & user.names())


@pytest.mark.parametrize("version", LATER)
def test_what_an_older_version_lacks_is_only_read_of_layers(version):
    """`_ask` reads those, so that their absence ends nothing; what the text names has to exist."""
    assert written(READER) & LATER[version] == {"IAttention.name"} & LATER[version]
    assert written(BINDINGS) & LATER[version] == written(RUNTIME) & LATER[version] == set()


def test_names_are_seen():
    direct = written(BINDINGS) | written(READER)
    assert len(direct) > 60
    assert direct >= {
        "OnnxParser.get_error", "ParserError.node_name", "IBuilderConfig.set_flag", "Weights.size",
        "IProgressMonitor.step_complete", "ILogger.Severity.name", "ITensor.is_shape_tensor",
    }  # fmt: skip
    assert len(RUNTIME.names()) > 40
    assert RUNTIME.names() >= {"ICudaEngine.get_tensor_name", "IRuntimeCache", "TensorIOMode.INPUT"}
    assert BINDINGS.names() | READER.names() | RUNTIME.names() >= RTX_ONLY


def test_every_module_that_uses_the_bindings_is_listed():
    assert users_found(ROOT) == {user.module for user in USERS}


SAMPLE = """
import re
import tensorrt.plugin as trtp
class Monitor(api.IProgressMonitor):
    def phase_began(self): ...
def f(self, engine, own):
    self.api.Bundle(engine.num_bindings, trtp.TensorDesc.shape_exprs, trtp.registers, re.sub("a", own.x, "").strip())
    getattr(engine, "num_things")
"""


def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changed: object) -> User:
    (tmp_path / "tensorrt_sample.py").write_text(SAMPLE)
    monkeypatch.syspath_prepend(tmp_path)
    user = User("tensorrt_sample", {"api": "", "engine": "ICudaEngine", "trtp": PLUGIN}, frozenset({"own"}))
    return dataclasses.replace(user, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_names_are_found(version, tmp_path, monkeypatch):
    assert missing_names(sample(tmp_path, monkeypatch).names(), known_names(version)) == {
        "Bundle", "ICudaEngine.num_bindings", "ICudaEngine.num_things", "plugin.TensorDesc.shape_exprs",
        "plugin.registers", "IProgressMonitor.phase_began",
    }  # fmt: skip


def test_a_variable_of_which_nothing_is_said_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(LookupError, match=r"f\(\): is 'own' of the bindings"):
        sample(tmp_path, monkeypatch, others=frozenset()).names()


def test_a_module_that_is_not_listed_is_found(tmp_path):
    (tmp_path / "convkit_plugins" / "new").mkdir(parents=True)
    (tmp_path / "convkit_plugins" / "new" / "__init__.py").write_text("def register(trt): ...")
    (tmp_path / "convkit_plugins" / "new" / "_lazy.py").write_text("def f():\n    import tensorrt.plugin as x")
    (tmp_path / "convkit_plugins" / "new" / "_other.py").write_text("from convkit.backends import tensorrt")
    assert users_found(tmp_path) == {"convkit_plugins.new", "convkit_plugins.new._lazy"}
