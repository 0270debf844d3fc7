"""The self-test on small artifacts of four kinds: every planted fault is caught, no clean variant is rejected."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.plugins import registered

from convkit import Artifact
from convkit.artifact import publish, staging
from convkit.errors import SettingError, ValidationError
from convkit.plugins import manager
from convkit.self_test import FAULTS, VARIANTS, SelfTest, self_test

SMALL = ("toy", "blobs", "pair", "embedding")


@pytest.fixture(scope="module")
def plugins() -> Iterator[None]:
    """All small adapters, installed for the module."""
    from support.blobs import BlobPlugin
    from support.embedding import EmbeddingPlugin
    from support.pair import PairPlugin
    from support.toy import ToyPlugin

    with (
        registered(ToyPlugin()),
        registered(BlobPlugin(), "blobs"),
        registered(PairPlugin(), "pair"),
        registered(EmbeddingPlugin(), "embedding"),
    ):
        yield


@pytest.fixture(scope="module")
def tests(plugins: None, request: pytest.FixtureRequest) -> dict[str, SelfTest]:
    """The self-tests of all small artifacts."""
    names = {"toy": "toy_artifact", "blobs": "blob_artifact", "pair": "pair_artifact", "embedding": "embedding_artifact"}
    return {name: self_test(request.getfixturevalue(fixture).path) for name, fixture in names.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_fault_is_caught(tests: dict[str, SelfTest], name: str) -> None:
    missed = [
        f"{outcome.kind}: {one.where}" for outcome in tests[name].outcomes for one in outcome.planted if not one.caught
    ]
    assert missed == []
    assert tests[name].caught == tests[name].faults >= 25


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_no_alarm_is_false(tests: dict[str, SelfTest], name: str) -> None:
    rejected = [f"{one.name}: {one.by} {one.note}" for one in tests[name].variants if one.applies and not one.passed]
    assert rejected == []
    assert tests[name].clean >= 40
    assert tests[name].passed
