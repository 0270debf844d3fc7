"""Fixtures that many tests share: the toy adapters, their checkpoints and one artifact of each."""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "2")  # read by torch and OpenCV at their import; subprocesses inherit it

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime themselves

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of tests start Python; each would compile convkit

os.environ["CONVKIT_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "convkit-kernels")

import pytest
from hypothesis import settings
from support.every_case import EVERY_CASE
from support.exporter import quick_exports
from support.gpu import missing_gpu
from support.heavy import heaviest_first
from support.plugins import registered
from support.scenes import quick_scenes

if TYPE_CHECKING:
    from support.blobs import BlobPlugin
    from support.embedding import EmbeddingPlugin
    from support.pair import PairPlugin
    from support.toy import ToyPlugin

    from convkit import Artifact

settings.register_profile("convkit", deadline=None, derandomize=True, max_examples=60 if EVERY_CASE else 40)
settings.load_profile("convkit")

quick_exports()

sys.dont_write_bytecode = False  # nor compiles each run, and each worker, the tests

gc.set_threshold(10_000)  # PyTorch's exporter makes millions of small objects, and nearly all of them stay


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Read no file in vain where only few hold what is asked for."""
    wanted = config.option.markexpr == "timing" and collection_path.suffix == ".py"
    return True if wanted and "mark.timing" not in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first. Skip what needs a GPU where there is none; else nothing is imported for that."""
    items.sort(key=lambda item: heaviest_first(item.path.as_posix()))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    lack = missing_gpu() if marked else ""
    for item in marked if lack else ():
        item.add_marker(pytest.mark.skip(reason=lack))


def pytest_collection_finish() -> None:
    """Draw each scene once, now that the tests have imported what draws them."""
    quick_scenes()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin with the same random numbers in each test and in the fixtures that it is the first to need."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the developer's shell says out of the tests."""
    for name in ("CONVKIT_LOAD_PLUGINS", "CONVKIT_TRACE_PLUGINS", "CONVKIT_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def toy() -> Iterator[ToyPlugin]:
    """The toy adapter, installed for one test."""
    from support.toy import ToyPlugin

    with registered(ToyPlugin()) as plugin:
        yield plugin


@pytest.fixture(scope="session")
def toy_weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the toy adapter: four classes."""
    import torch
    from support.toy import toy_weights

    path = tmp_path_factory.mktemp("weights") / "toy.pth"
    torch.save(toy_weights(), path)
    return path


@pytest.fixture(scope="session")
def toy_artifact(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A proved artifact of the toy adapter with a batch of 1 to 4. Tests that change it work on a copy."""
    from support.toy import ToyPlugin

    return _artifact(tmp_path_factory, "toy", ToyPlugin(), toy_weights_file)


@pytest.fixture
def blobs() -> Iterator[BlobPlugin]:
    """The rectangle detector, installed for one test."""
    from support.blobs import BlobPlugin

    with registered(BlobPlugin(), "blobs") as plugin:
        yield plugin


@pytest.fixture(scope="session")
def blob_weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the rectangle detector."""
    import torch
    from support.blobs import blob_weights

    path = tmp_path_factory.mktemp("weights") / "blobs.pth"
    torch.save(blob_weights(), path)
    return path


@pytest.fixture(scope="session")
def blob_artifact(blob_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A proved artifact of the rectangle detector: batch 1 to 3, height 48 to 96, width 64 to 96."""
    from support.blobs import BlobPlugin

    return _artifact(tmp_path_factory, "blobs", BlobPlugin(), blob_weights_file)


@pytest.fixture
def pair() -> Iterator[PairPlugin]:
    """The pair of inputs, installed for one test."""
    from support.pair import PairPlugin

    with registered(PairPlugin(), "pair") as plugin:
        yield plugin


@pytest.fixture(scope="session")
def pair_weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the pair of inputs."""
    import torch
    from support.pair import pair_weights

    path = tmp_path_factory.mktemp("weights") / "pair.pth"
    torch.save(pair_weights(), path)
    return path


@pytest.fixture(scope="session")
def pair_artifact(pair_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A proved artifact of the pair of inputs: batch 1 to 3, 2 to 12 tokens."""
    from support.pair import PairPlugin

    return _artifact(tmp_path_factory, "pair", PairPlugin(), pair_weights_file, samples=4)


@pytest.fixture
def embedding() -> Iterator[EmbeddingPlugin]:
    """The model without processing, installed for one test."""
    from support.embedding import EmbeddingPlugin

    with registered(EmbeddingPlugin(), "embedding") as plugin:
        yield plugin


@pytest.fixture(scope="session")
def embedding_weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the model without processing."""
    import torch
    from support.embedding import embedding_weights

    path = tmp_path_factory.mktemp("weights") / "embedding.pth"
    torch.save(embedding_weights(), path)
    return path


@pytest.fixture(scope="session")
def embedding_artifact(embedding_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A proved artifact of the model without preprocess and decode: batch 1 to 4."""
    from support.embedding import EmbeddingPlugin

    return _artifact(tmp_path_factory, "embedding", EmbeddingPlugin(), embedding_weights_file, samples=4)


def _artifact(factory: pytest.TempPathFactory, name: str, plugin: object, weights: Path, **settings: Any) -> Artifact:
    """Return this worker's copy, which tests may validate: that writes a record into it."""
    from support.shared import made_once

    from convkit import Artifact, convert

    def make(output: Path) -> None:
        with registered(plugin, name):
            convert(name, weights=weights, output=output, **settings)

    return Artifact.open(shutil.copytree(made_once(factory, name, make), factory.mktemp("artifacts") / name))


@pytest.fixture(scope="session")
def digits_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The trained digits network, a CenterNet with deformable convolutions: 128 x 128, batch 1 to 2, raw heads.

    Tests that change it work on a copy, as with all that workers share.
    """
    return _digits(tmp_path_factory, "heads", ("batch=1:1:2", "height=128", "width=128"))


@pytest.fixture(scope="session")
def digits_detections_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same network with its detections in the graph, a peak test and a top-K: height 64 to 96, width 64."""
    return _digits(tmp_path_factory, "detections", ("batch=1", "height=64:64:96", "width=64"))


def _digits(factory: pytest.TempPathFactory, form: str, shape: tuple[str, ...]) -> Artifact:
    from support.shared import made_once

    from convkit import Artifact, convert

    weights = Path(__file__).parents[1] / "examples" / "digits" / "digits_resdcn18.pth"

    def make(output: Path) -> None:
        convert("centernet", weights=weights, output=output, form=form, shape=list(shape), samples=2)

    return Artifact.open(made_once(factory, f"digits-{form}", make))


@pytest.fixture(scope="session")
def narrow_weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a narrow resdcn_18: random, but worth comparing."""
    from support.checkpoints import make_checkpoint
    from support.shared import made_once

    return made_once(tmp_path_factory, "narrow.pth", lambda path: make_checkpoint(path, width=0.125))


@pytest.fixture(scope="session")
def narrow_forms(narrow_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """What makes an artifact of that network in an output form: batch, height and width vary.

    All workers share them: tests that change one work on a copy.
    """
    from support.shared import made_once

    from convkit import Artifact, convert

    def artifact(form: str) -> Artifact:
        def make(output: Path) -> None:
            shape = ["batch=1:1:2", "height=64:64:96", "width=64:96:96"]
            convert("centernet", weights=narrow_weights_file, output=output, form=form, shape=shape, samples=2)

        return Artifact.open(made_once(tmp_path_factory, f"narrow-{form}", make))

    return artifact


@pytest.fixture(scope="session")
def narrow_artifact(narrow_forms: Callable[[str], Artifact]) -> Artifact:
    """The narrow resdcn_18 with raw heads."""
    return narrow_forms("heads")
