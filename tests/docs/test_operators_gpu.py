"""The operator of docs/operators.md on a GPU: its kernel, and its definition in PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import markdown
from support.workshop import Workshop

pytestmark = pytest.mark.gpu

CHECK = """
import sys
sys.path.insert(0, "gated")
import torch
from gated_convkit import gate_cuda
from gated_convkit.gate import gate

for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    for shape in ((1000,), (3, 5, 7), (0, 4), (2, 3, 4, 5)):
        whole = torch.randn(shape, device="cuda").to(dtype)
        last = whole.to(memory_format=torch.channels_last) if len(shape) == 4 else whole
        for x in (whole, last, whole.transpose(0, -1), whole[..., ::2]):
            assert torch.equal(gate(x, 0.25), torch.where(x > 0.25, x, 0)), (dtype, shape, x.stride())
            torch.library.opcheck(gate, (x, 0.25), test_utils=("test_schema", "test_faketensor"))
x = torch.randn(4, 6, device="cuda").t()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    y = gate(x, 0.25)
x.normal_()
graph.replay()
assert torch.equal(y, torch.where(x > 0.25, x, 0))
"""


def test_the_kernel_computes_what_the_definition_does(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "w")
    for block in markdown.blocks("docs/operators.md"):
        if block.told("file") is not None:
            workshop.run(block)
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=workshop.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
