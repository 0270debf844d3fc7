"""Options that change nothing for the model in hand: whoever sets one is told so, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.mistakes import Mine
from support.plugins import registered

from convkit import convert
from convkit.errors import AdapterError, SettingError


@pytest.fixture
def convert_with(toy_weights_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """Convert with an adapter whose models have these options unused."""

    def run(unused: Any, **settings: Any) -> Any:
        with registered(Mine(loaded=lambda source: replace(source, unused=unused)), "mine"):
            return convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=1, **settings)

    return run


def test_one_that_is_set_is_refused_with_the_reason(
    convert_with: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = {"scale": "it is for photos"}
    with pytest.raises(SettingError, match="'scale' changes nothing for this model: it is for photos") as caught:
        convert_with(unused, set={"scale": "1.0"})
    assert caught.value.hint == "Leave --set scale out."
    (tmp_path / "convkit.toml").write_text("[convert.toy.set]\nscale = 2.0\n")
    with pytest.raises(SettingError) as caught:
        convert_with(unused, config=tmp_path / "convkit.toml")
    assert caught.value.hint == "Leave scale of set in convkit.toml out."
    assert [file.name for file in tmp_path.iterdir()] == ["convkit.toml"]
    assert convert_with(unused).artifact.manifest["verdict"]["passed"]


@pytest.mark.parametrize(
    ("unused", "said"),
    [
        ({"scael": "it is for photos"}, "'scael', which is no option of the adapter"),
        (("scale",), r"SourceModel\.unused.* is \('scale',\)"),
    ],
)
def test_a_mistake_of_the_author_is_told(convert_with: Callable[..., Any], unused: Any, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        convert_with(unused)
