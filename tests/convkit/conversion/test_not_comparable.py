"""Results that float32 itself does not keep: no proof, and no verdict against the engine either."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.mistakes import Mine, reference_with
from support.plugins import registered

from convkit import Artifact, convert
from convkit.errors import ProofFailedError

FAR = 1e7
"""Added and taken away again, it leaves whole numbers in float32 and nearly everything in float64."""


def coarse(logits: torch.Tensor) -> torch.Tensor:
    return logits * 3 + FAR - FAR


def forward(module: Any, original: Any, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (coarse(original(images)["logits"]),)


def test_a_network_that_loses_its_results_in_float32_is_not_comparable_and_not_proved(toy_weights_file, tmp_path):
    plugin = reference_with(lambda module, inputs, outputs: {"logits": coarse(outputs["logits"])})
    with registered(Mine(loaded=plugin.loaded, forward=forward), "mine"), pytest.raises(ProofFailedError) as caught:
        convert("toy", weights=toy_weights_file, output=tmp_path / "out", samples=2, shape=["batch=1"])
    error, verdict = caught.value, caught.value.verdict
    assert error.exit_code == 4
    assert error.message.startswith("Nothing can be proved of the results: NOT proved: ")
    assert "better weights" in error.hint
    assert "--inputs" in error.hint
    assert verdict is not None
    assert not verdict.comparable
    assert {(check.kind, check.state) for check in verdict.failures} == {("decoded", "not comparable")}
    assert all(check.passed for check in verdict.checks if check.kind == "values")
    assert all(stage.passed for stage in verdict.ledger)
    rejected = Artifact.open(tmp_path / "out.rejected")
    assert "not comparable" in (rejected.path / "report.html").read_text(encoding="utf-8")
