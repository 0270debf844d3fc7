"""What is compared takes the same inputs; what cannot run says why."""

from __future__ import annotations

import pytest
import torch

from convkit.artifact import spec_from_manifest
from convkit.backends import backend_named
from convkit.benchmarking import BenchSettings, bench
from convkit.benchmarking._candidates import check_comparable, choose_batches, find_candidates
from convkit.errors import EnvironmentProblem, SettingError


def spec(artifact):
    return spec_from_manifest(artifact.manifest)


def test_artifacts_of_other_inputs_are_refused(toy_artifact, blob_artifact):
    with pytest.raises(SettingError, match=r"batch x 3 x 64 x 96, and .* batch x 3 x 32 x 32") as caught:
        check_comparable([(one, spec(one)) for one in (toy_artifact, blob_artifact)])
    assert f"convkit bench {blob_artifact.path}" in caught.value.hint
    check_comparable([(toy_artifact, spec(toy_artifact))] * 2)


@pytest.mark.parametrize(("asked", "expected"), [((), (1, 2, 4)), ((3,), (3,)), ((4, 1, 4), (1, 4))])
def test_batches_are_powers_of_two_in_the_range_unless_asked_for(toy_artifact, asked, expected):
    assert choose_batches([spec(toy_artifact)], asked) == expected


def test_the_largest_batch_is_run_and_only_those_that_all_take(toy_artifact, blob_artifact):
    assert choose_batches([spec(blob_artifact)], ()) == (1, 2, 3)
    assert choose_batches([spec(toy_artifact), spec(blob_artifact)], ()) == (1, 2, 3)
    with pytest.raises(SettingError, match="A batch of 4 was asked for, and the artifacts take 1 to 3"):
        choose_batches([spec(toy_artifact), spec(blob_artifact)], (4,))


def test_every_backend_is_a_candidate_and_what_cannot_run_says_why(toy_artifact):
    reasons = {(one.backend, one.device): reason for one, reason in find_candidates(toy_artifact, (), ())}
    assert reasons["onnxruntime", "cpu"] == reasons["torch", "cpu"] == ""
    assert ("cuda" in reasons["torch", "cuda"]) != torch.cuda.is_available()
    assert reasons["tensorrt-rtx", "cuda"].endswith(f"`convkit build {toy_artifact.path} --to tensorrt-rtx` makes one")
    with pytest.raises(SettingError, match="There is no backend 'onnxruntme'"):
        list(find_candidates(toy_artifact, ("onnxruntme",), ()))


def test_a_device_of_which_nothing_is_known_is_a_reason_and_no_end(toy_artifact, monkeypatch):
    """A PyTorch that sees a GPU runs there, but without cupy nobody knows which one was proved."""
    torch = backend_named("torch")
    monkeypatch.setattr(type(torch), "problem", lambda self, device="cpu": "")
    with pytest.raises(EnvironmentProblem, match=r"torch \(cuda:99\): .*(no CUDA GPU|cupy|CUDA driver)"):
        bench([toy_artifact.path], BenchSettings(backends=("torch",), devices=("cuda:99",)))


@pytest.mark.parametrize(
    "values", [{"scopes": ("netwrk",)}, {"runs": 4}, {"warm_up": 0}, {"threads": 0}, {"cool_down": -1.0}]
)
def test_settings_that_cannot_be_obeyed_are_refused(values):
    with pytest.raises(SettingError):
        BenchSettings(**values)
