"""Mean and standard deviation: what nobody can mean is refused with its likely cause, what people use passes."""

from __future__ import annotations

from typing import Any

import pytest

from convkit.errors import SettingError
from convkit.processing import check_normalisation

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
IN_PIXELS = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


@pytest.mark.parametrize(
    ("mean", "std", "largest"),
    [
        (*IMAGENET, None),
        (*IMAGENET, 1.0),
        (*IN_PIXELS, None),
        (*IN_PIXELS, 255.0),
        ([0.40789654, 0.44719302, 0.47026115], [0.28863828, 0.27408164, 0.27809835], 1.0),
        ([104, 117, 123], [1, 1, 1], None),
        (127.5, 128.0, None),
        (0.5, 0.5, None),
        (0, 1, 1.0),
        (0, 255, None),
        ([0, 0, 0], [255.0], None),
        ("imagenet", "imagenet", None),
        (None, None, 1.0),
    ],
)
def test_what_people_use_passes(mean, std, largest):
    check_normalisation({"mean": mean, "std": std}, largest=largest)


NONSENSE: list[tuple[Any, Any, float | None, str, str]] = [
    (0.5, 0.0, None, "std of 0", "it is 1"),
    (0.5, [0.2, -0.2, 0.2], None, "std of 0.2, -0.2, 0.2", "it is 1"),
    ([0.5, float("nan"), 0.5], 0.5, None, "mean of 0.5, nan, 0.5", "finite"),
    (0.5, float("inf"), None, "std of inf", "finite"),
    ([0.5, 0.5], [0.5, 0.5, 0.5], None, "std has 3 numbers", "one for all"),
    ([-0.485, -0.456, -0.406], IMAGENET[1], None, "never negative", "leave the sign out"),
    (IN_PIXELS[0], IMAGENET[1], None, "for pixels of 0 to 255; this is for 0 to 1", "same scale"),
    (IMAGENET[0], IN_PIXELS[1], None, "for pixels of 0 to 1; this is for 0 to 255", "same scale"),
    (*IN_PIXELS, 1.0, "for pixels of 0 to 255; these are 0 to 1", "mean=0.485,0.456,0.406 std=0.229,0.224,0.225"),
    (0.5, [58.4, 57.1, 57.4], 1.0, "for pixels of 0 to 255; these are 0 to 1", "std=0.229,0.2239,0.2251"),
    (*IMAGENET, 255.0, "for pixels of 0 to 1; these are 0 to 255", "Multiply by 255"),
    ([0.0019, 0.0018, 0.0016], [0.0009, 0.0009, 0.0009], 1.0, "less than one level", "divided by 255 twice"),
]


@pytest.mark.parametrize(("mean", "std", "largest", "fact", "hint"), NONSENSE)
def test_nonsense_is_refused_with_its_likely_cause(mean, std, largest, fact, hint):
    with pytest.raises(SettingError) as caught:
        check_normalisation({"mean": mean, "std": std}, largest=largest)
    assert fact in caught.value.message
    assert hint in caught.value.hint


def test_of_other_values_than_pixels_only_what_is_wrong_on_every_scale_is_refused():
    spectrogram = {"mean": -4.2677, "std": 4.5689}
    check_normalisation(spectrogram, images=False)
    with pytest.raises(SettingError, match="never negative"):
        check_normalisation(spectrogram)
    with pytest.raises(SettingError, match="std of 0"):
        check_normalisation({"std": 0}, images=False)
