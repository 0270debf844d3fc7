"""The command line in this process, with the toy adapters installed as distributions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.plugins import write_distribution

from convkit import plugins

ENTRIES = {
    "toy": "from support.toy import ToyPlugin\nplugin = ToyPlugin()\n",
    "blobs": "from support.blobs import BlobPlugin\nplugin = BlobPlugin()\n",
    "pair": "from support.pair import PairPlugin\nplugin = PairPlugin()\n",
    "embedding": "from support.embedding import EmbeddingPlugin\nplugin = EmbeddingPlugin()\n",
}


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The whole of stdout as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines of stdout."""
        return self.out.splitlines()


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the distributions of the toy adapters are installed."""
    site = tmp_path_factory.mktemp("site")
    for name, source in ENTRIES.items():
        module = f"{name}_entry_point"
        write_distribution(site, f"convkit-{name}", {name: f"{module}:plugin"}, {module: source}, "1.0")
    return site


@pytest.fixture
def cli(
    toy_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Run a command line in a folder of its own: ``cli("run", artifact, image)``."""
    from convkit.cli import execute
    from convkit.cli._console import set_verbosity

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(toy_site))

    def run(*words: Any) -> Said:
        capsys.readouterr()
        code = execute([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    yield run
    set_verbosity()
    plugins.block([])
    for name in [name for name in sys.modules if name.endswith("_entry_point")]:
        del sys.modules[name]
