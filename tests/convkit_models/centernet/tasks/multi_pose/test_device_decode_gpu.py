"""The kernels for poses on a GPU against the host's decode: at full size, to the bit, run after run and in a graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.decoding import DTYPES, metas_for
from support.poses import heads, spec

from convkit import Poses
from convkit_models.centernet.tasks.multi_pose import PoseDecode

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["few", "many", "flat"])
def test_equal_to_the_host(dtype: str, layout: torch.memory_format, kind: str) -> None:
    """Fewer candidates than people, more than the list holds, and every cell one."""
    settings, metas = spec(joints=17, topk=100), metas_for(3, 128, 128)
    given = {name: torch.from_numpy(value) for name, value in heads(17, 128, 128, batch=3).items()}
    given["wh"] *= 4
    if kind == "few":
        given["hm_hp"] -= 9
    elif kind == "flat":
        given["hm_hp"][:] = 0.25
        given["hm"][1] = 0.25
    maps = {name: value.to(DTYPES[dtype]).to(memory_format=layout) for name, value in given.items()}
    expected = PoseDecode(settings)({name: value.float().numpy() for name, value in maps.items()}, metas)
    decode = PoseDecode(settings).on_device()
    matrices = np.stack([decode.values(meta)["output_to_image"] for meta in metas])
    outputs = {name: value.cuda() for name, value in maps.items()}
    inputs = {"output_to_image": torch.from_numpy(matrices).cuda()}
    results = {
        "rows": torch.empty(3, *decode.results[0].shape, device="cuda"),
        "counts": torch.empty(3, dtype=torch.int32, device="cuda"),
    }
    stream = torch.cuda.Stream()

    def launch() -> None:
        decode.launch(outputs, inputs, results, stream.cuda_stream)

    def check() -> None:
        stream.synchronize()
        found = decode.read({name: value.cpu().numpy() for name, value in results.items()}, metas)
        for one, other in zip(found, expected, strict=True):
            assert isinstance(one, Poses)
            assert isinstance(other, Poses)
            for name in ("boxes", "scores", "points"):
                left, right = (getattr(each, name).view(np.uint32) for each in (one, other))
                np.testing.assert_array_equal(left, right, err_msg=name)
            assert len(one) > 0

    torch.cuda.synchronize()
    for _ in range(2):
        launch()
        check()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        launch()
    for value in results.values():
        value.fill_(-1)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        graph.replay()
    check()
