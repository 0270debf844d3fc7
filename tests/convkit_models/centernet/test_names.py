from __future__ import annotations

import pytest

from convkit.errors import SettingError
from convkit_models.centernet._names import class_names


def test_coco() -> None:
    names = class_names(80, None)
    assert len(names) == len(set(names)) == 80
    assert [names[i] for i in (0, 9, 11, 31, 40, 62, 67, 79)] == [
        *("person", "traffic light", "stop sign", "snowboard"),
        *("wine glass", "tv", "cell phone", "toothbrush"),
    ]


def test_pascal() -> None:
    names = class_names(20, None)
    assert len(names) == len(set(names)) == 20
    assert (names[0], names[14], names[19]) == ("aeroplane", "person", "tvmonitor")


def test_other_counts_are_numbered() -> None:
    assert class_names(3, None) == ("class 0", "class 1", "class 2")


def test_own_names_go_first() -> None:
    own = tuple(f"thing {index}" for index in range(80))
    assert class_names(80, own) == own


def test_a_wrong_count_states_both() -> None:
    with pytest.raises(SettingError, match="2 class names, but the network has 3 classes"):
        class_names(3, ("a", "b"))


def test_a_name_twice() -> None:
    with pytest.raises(SettingError, match="'b' is given twice"):
        class_names(3, ("a", "b", "b"))
