"""An artifact runs where nothing is installed that converting and proving need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.embedding import EmbeddingNet, embedding_weights

from convkit import load

REFUSED = (
    "torch", "torchvision", "onnxscript", "onnx_ir", "onnx_graphsurgeon", "polygraphy", "cupy", "tensorrt", "scipy",
    "sklearn", "pycocotools", "matplotlib", "jinja2", "PIL", "pytest", "rich", "typer",
)  # fmt: skip
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def python(code: str, *arguments: Any, refused: tuple[str, ...] = (), folder: Path | None = None) -> Any:
    """Run code in another process in which some packages do not exist; return the JSON in its last line."""
    paths = os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))
    done = subprocess.run(
        [sys.executable, "-c", REFUSE.format(refused=set(refused)) + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_hook_refuses_what_it_should(tmp_path):
    code = """
import json
try:
    import torch
except ModuleNotFoundError as error:
    print(json.dumps(str(error)))
"""
    assert python(code, refused=REFUSED, folder=tmp_path) == "No module named 'torch'"


def test_importing_the_runtime_loads_neither_converter_nor_prover(tmp_path):
    code = """
import json, sys
import convkit.runtime
print(json.dumps(sorted(sys.modules)))
"""
    loaded = set(python(code, folder=tmp_path))
    assert not loaded & {*REFUSED, "convkit.proof", "convkit.conversion", "convkit.testing", "convkit.evaluation"}


DIGITS = """
import json, sys
import convkit
with convkit.load(sys.argv[1]) as predictor:
    found = predictor([sys.argv[2]] * 3)
print(json.dumps([result.to_json() for result in found]))
"""


IMAGE = Path(__file__).resolve().parents[3] / "examples" / "digits" / "images" / "0000.jpg"


@pytest.mark.slow
def test_a_detector_runs_without_torch_and_without_the_tools_of_the_proof(digits_artifact, tmp_path):
    alone = python(DIGITS, digits_artifact.path, IMAGE, refused=REFUSED, folder=tmp_path)
    with load(digits_artifact) as predictor:
        expected = predictor(IMAGE).to_json()
    assert len(expected["detections"]) > 0
    assert alone == [json.loads(json.dumps(expected))] * 3


EMBED = """
import json, sys
import numpy as np
import convkit
vectors = np.load(sys.argv[2])
with convkit.load(sys.argv[1]) as predictor:
    print(json.dumps(predictor.outputs({"vectors": vectors})["embedding"].tolist()))
"""


def test_a_model_without_preprocess_and_decode_needs_not_even_its_plugin(embedding_artifact, tmp_path):
    import torch

    vectors = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    found = python(EMBED, embedding_artifact.path, tmp_path / "vectors.npy", refused=REFUSED, folder=tmp_path)
    net = EmbeddingNet().eval()
    net.load_state_dict(embedding_weights())
    with torch.no_grad():
        np.testing.assert_allclose(found, net(torch.from_numpy(vectors)[None])[0].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_loading_an_artifact_takes_about_a_second(digits_artifact, tmp_path):
    """The goal is 1 s (benchmarks/cli_startup.py prints it); a shared machine gets 3 s of the processor."""
    code = "import convkit, resource, sys\nconvkit.load(sys.argv[1]).close()\nprint(sum(resource.getrusage(0)[:2]))"
    assert min(python(code, digits_artifact.path, folder=tmp_path) for _ in range(3)) < 3
