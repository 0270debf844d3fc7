"""Test files that take longest: started first, so that no worker waits long for the other at the end."""

from __future__ import annotations

__all__ = ["HEAVY", "heaviest_first"]

HEAVY = (
    "docs/test_code_blocks.py",
    "convkit_models/centernet/test_conformance.py",
    "convkit/cuda/test_all_kernels.py",
    "convkit_plugins/dcnv2/cuda/test_hopper_kernel.py",
    "convkit/backends/tensorrt/test_every_model.py",
    "convkit_models/centernet/tasks/ctdet/test_device_decode.py",
    "convkit/conversion/test_fuzz.py",
    "convkit/conversion/test_typed_engines.py",
    "convkit_plugins/dcnv2/tensorrt/test_aot.py",
    "convkit/cli/test_doctor.py",
    "convkit_plugins/dcnv2/cuda/test_hopper_code.py",
    "examples/test_minimal_adapter.py",
    "convkit_plugins/dcnv2/cuda/test_tensor.py",
    "convkit/processing/image_warp/test_warp.py",
    "convkit/graph/test_standard.py",
    "convkit_plugins/dcnv2/tensorrt/test_aot_kernels.py",
    "convkit/backends/tensorrt/test_precision.py",
    "convkit/test_faults.py",
    "convkit_plugins/dcnv2/tensorrt/test_creator.py",
    "convkit/bisection/test_digits.py",
    "convkit/cli/test_new.py",
    "convkit/proof/test_mutation.py",
    "convkit/conversion/test_interruption.py",
    "convkit/cli/test_run.py",
    "convkit_plugins/dcnv2/cuda/test_plain.py",
    "convkit/testing/cuda_host/test_races.py",
    "convkit/testing/test_checks.py",
    "convkit/evaluation/test_evaluate.py",
    "convkit/self_test/test_self_test.py",
    "convkit_models/centernet/test_torch_backend.py",
    "convkit/backends/tensorrt/test_standard.py",
    "convkit/conversion/test_convert.py",
    "convkit/backends/test_torch_standard.py",
    "convkit/conversion/test_typed_artifacts.py",
    "convkit/conversion/test_author_mistakes.py",
)
"""By the processor's time that they take, the longest first: all that take some seconds."""


def heaviest_first(file: str) -> int:
    """Return the rank of a file: those of `HEAVY` in their order, then all others."""
    return next((rank for rank, name in enumerate(HEAVY) if file.endswith(f"tests/{name}")), len(HEAVY))
