"""The kit on models of other kinds than images: named arrays of several dtypes, and no preprocess or decode at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from support.embedding import EmbeddingPlugin, embedding_weights
from support.pair import PairPlugin, pair_weights
from support.plugins import registered, write_distribution

from convkit.testing import AdapterConformance

LIGHT = """
from convkit import Adapter, hookimpl

class Light(Adapter):
    name = summary = {name!r}
    def load(self, request):
        from support.{name} import {kind}Adapter
        return {kind}Adapter().load(request)
    def samples(self, spec, count, seed):
        from support.{name} import {kind}Adapter
        return {kind}Adapter().samples(spec, count, seed)

@hookimpl
def convkit_adapters():
    return [Light()]
"""


class Installed(AdapterConformance):
    """Base of the classes below: the plugin is registered, and its entry point is one that imports little."""

    forms: ClassVar = ("default",)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def installed(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        plugin = {"pair": PairPlugin, "embedding": EmbeddingPlugin}[cls.adapter]()
        source = LIGHT.format(name=cls.adapter, kind=cls.adapter.title())
        site = write_distribution(
            tmp_path_factory.mktemp("site"),
            f"convkit-{cls.adapter}",
            {cls.adapter: f"light_{cls.adapter}"},
            {f"light_{cls.adapter}": source},
        )
        with pytest.MonkeyPatch.context() as patch, registered(plugin, cls.adapter):
            patch.syspath_prepend(str(site))
            yield


class TestPair(Installed):
    """Two inputs of which one is as long as the other and one more, dynamic length, a decode of its own results."""

    adapter = "pair"

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("weights") / "pair.pth"
        torch.save(pair_weights(), path)
        return path


class TestEmbedding(Installed):
    """A network alone: raw inputs are its arrays, results are its outputs."""

    adapter = "embedding"

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("weights") / "embedding.pth"
        torch.save(embedding_weights(), path)
        return path
