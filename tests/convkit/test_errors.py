"""The tree of errors: exit codes, texts and suggestions."""

from __future__ import annotations

import pytest

from convkit import errors
from convkit.errors import ConvkitError, listing, suggest

EXIT_CODES = {
    "AdapterNotFoundError": 1,
    "ArtifactError": 1,
    "CheckpointError": 1,
    "ConvkitError": 1,
    "ImageError": 1,
    "InputError": 1,
    "KernelArgumentError": 1,
    "OutputError": 1,
    "SettingError": 2,
    "AdapterError": 3,
    "ConversionError": 3,
    "ExportError": 3,
    "KernelError": 3,
    "PatchError": 3,
    "RewriteError": 3,
    "IntegrityError": 4,
    "NotFiniteError": 4,
    "ProofFailedError": 4,
    "ValidationError": 4,
    "EnvironmentProblem": 5,
    "PluginError": 5,
}


def test_every_error_has_its_documented_exit_code():
    found = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ConvkitError)
    }
    assert found == EXIT_CODES
    assert set(errors.__all__) == {*EXIT_CODES, "blamed_on", "listing", "suggest"}


@pytest.mark.parametrize("name", EXIT_CODES)
def test_an_error_carries_a_fact_and_a_remedy(name):
    kind = getattr(errors, name)
    error = kind("The disk is full.", hint="Free some space.")
    assert (error.message, error.hint) == ("The disk is full.", "Free some space.")
    assert str(error) == "The disk is full.\nFree some space."
    assert str(kind("The disk is full.")) == "The disk is full."
    assert kind.__doc__


def test_suggestions_name_the_closest_known_word_or_nothing():
    known = ["centernet", "toy", "retinanet"]
    assert suggest("centrenet", known) == "Did you mean 'centernet'?"
    assert suggest("retinanet", iter(known)) == "Did you mean 'retinanet'?"
    assert suggest("xyzzy", known) == ""
    assert suggest("toy", []) == ""


def test_a_listing_is_short_whatever_is_listed():
    assert listing([]) == ""
    assert listing(["a", "b"]) == "a, b"
    assert listing(map(str, range(9))) == "0, 1, 2, 3, 4, 5 and 3 more"
    assert listing("abc", most=2) == "a, b and 1 more"
    assert listing(["x" * 100, "y" * 101]) == f"{'x' * 100}, {'y' * 99}…"
