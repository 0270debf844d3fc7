"""The tree of errors: exit codes, texts and suggestions."""

from __future__ import annotations

import errno

import pytest

from convkit import errors
from convkit.errors import (
    AdapterError,
    ConvkitError,
    EnvironmentProblem,
    InputError,
    OutputError,
    at_stage,
    blamed_on,
    listing,
    suggest,
    unwritten,
)

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
    assert set(errors.__all__) == {
        *EXIT_CODES,
        "Interrupted",
        "at_stage",
        "blamed_on",
        "listing",
        "named",
        "suggest",
        "unwritten",
    }


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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_without_room_is_a_problem_of_the_machine(code):
    error = unwritten("out", OSError(code, "It is full"), "Give another folder.")
    assert isinstance(error, EnvironmentProblem)
    assert (error.message, error.hint) == (
        "No room to write out: It is full.",
        "Free some space, or give another folder.",
    )
    error = unwritten("out", OSError(errno.EACCES, "Permission denied"), "Give another folder.")
    assert isinstance(error, OutputError)
    assert str(error) == "Cannot write out: Permission denied.\nGive another folder."


def test_a_listing_is_short_whatever_is_listed():
    assert listing([]) == ""
    assert listing(["a", "b"]) == "a, b"
    assert listing(map(str, range(9))) == "0, 1, 2, 3, 4, 5 and 3 more"
    assert listing("abc", most=2) == "a, b and 1 more"
    assert listing(["x" * 100, "y" * 101]) == f"{'x' * 100}, {'y' * 99}…"


def test_what_plugin_code_raises_is_blamed_on_it_and_what_is_meant_for_people_passes():
    with pytest.raises(AdapterError) as caught, blamed_on("the decode", "mine", "Heed this."):
        raise KeyError("boxes\nsecond line")
    assert caught.value.message == r"Plugin 'mine': the decode raised KeyError: 'boxes\nsecond line'"
    assert caught.value.hint == (
        "Heed this. That is a mistake in the plugin that it belongs to; CONVKIT_DEBUG=1 shows where."
    )
    with pytest.raises(AdapterError, match="The decode raised SystemExit: 3"), blamed_on("the decode"):
        raise SystemExit(3)
    with pytest.raises(InputError, match="too dark"), blamed_on("the preprocess", "mine"):
        raise InputError("too dark")
    with pytest.raises(ZeroDivisionError), blamed_on("launch()", passing=(ZeroDivisionError,)):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), blamed_on("the decode", "mine"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")])
def test_memory_that_is_not_there_is_no_mistake_of_a_plugin(error):
    with (
        pytest.raises(EnvironmentProblem, match="Plugin 'mine': the decode needs more memory"),
        blamed_on("the decode", "mine"),
    ):
        raise error


def test_an_error_of_an_author_gets_the_stage_that_found_it_and_the_plugin_that_it_lacks():
    with pytest.raises(AdapterError) as caught, at_stage("write", "mine"), at_stage("export", "other"):
        raise AdapterError("It is wrong.", hint="Mend it.")
    assert (caught.value.stage, caught.value.message) == ("export", "Plugin 'other': It is wrong.")
    assert str(caught.value) == "Plugin 'other': It is wrong.\nStage: export\nMend it."
    with pytest.raises(InputError) as passed, at_stage("write", "mine"):
        raise InputError("too dark")
    assert (passed.value.stage, passed.value.message) == ("", "too dark")
