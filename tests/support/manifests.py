"""Manifests of artifacts that were never converted: complete, and about a model that is not there."""

from __future__ import annotations

from typing import Any

TENSOR = {
    "name": "x",
    "shape": ["batch", 3],
    "dtype": "float32",
    "compare": "values",
    "tolerance": {"factor": 3.0, "atol": 0.0, "reason": "none"},
}


VERDICT_DOCUMENT: dict[str, Any] = {
    "passed": True,
    "headline": "proved",
    "backend": "onnxruntime",
    "device": "cpu",
    "reference": "none",
    "inputs": "none",
    "checks": [],
    "ledger": [],
    "baselines": {},
    "notes": [],
    "ladder": {},
}


def manifest_of(variant: str = "graph", **changes: Any) -> dict[str, Any]:
    """Return what `publish` completes to a manifest; ``changes`` replace whole entries."""
    return {
        "convkit": "0",
        "adapter": {"name": "toy", "plugin": "toy", "distribution": "toy", "version": "0"},
        "weights": {"file": "toy.pth", "bytes": 1, "sha256": "0" * 64},
        "model": {
            "variant": variant,
            "dims": [{"name": "batch", "min": 1, "opt": 1, "max": 1, "multiple_of": 1}],
            "inputs": [TENSOR],
            "outputs": [{**TENSOR, "name": "y"}],
            "preprocess": {},
            "decode": {},
            "classes": [],
            "info": {},
        },
        "graph": {"format": "onnx", "opset": 20, "form": "", "precision": "fp32", "options": {}, "ir_version": 10},
        "settings": [],
        "patches": {},
        "translations": {},
        "rewrites": [],
        "environment": {
            "python": "3",
            "platform": "none",
            "packages": {},
            "engine": {"backend": "onnxruntime", "device": "cpu"},
        },
        "verdict": {"passed": True, "headline": "proved"},
        **changes,
    }
