"""The adapter's declarations and their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from convkit import Adapter, Dim, ModelSpec, Request, SourceModel


class Minimal(Adapter):
    name = "minimal"
    summary = "the least an adapter can say"

    def load(self, request: Request) -> SourceModel:
        raise NotImplementedError

    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[Any]:
        return []


def test_an_adapter_that_says_little_has_one_form_and_a_batch_of_one_to_eight_and_reads_files():
    assert Minimal().forms == ("default",)
    assert Minimal().dims == (Dim("batch", 1, 1, 8),)
    assert Minimal().options == ()
    assert not Minimal().weights_folder


@pytest.mark.parametrize("missing", ["load", "samples"])
def test_an_adapter_must_be_able_to_load_and_to_give_samples(missing):
    table = {"name": "incomplete", "load": Minimal.load, "samples": Minimal.samples}
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (Adapter,), {key: value for key, value in table.items() if key != missing})()
