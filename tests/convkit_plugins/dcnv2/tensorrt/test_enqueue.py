"""What the plugin enqueues, called as TensorRT calls it, with its kernels run on the CPU; no TensorRT is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from support.deform_host import Inputs, distance, inputs
from support.plugin_api import described, ranged, standin_api
from support.plugin_host import STREAM, Host

from convkit.errors import KernelArgumentError, PluginError
from convkit_plugins.dcnv2.cuda import Layer
from convkit_plugins.dcnv2.tensorrt import _creator, _execution, make_plugin_classes
from convkit_plugins.dcnv2.tensorrt._guard import Failures
from convkit_plugins.dcnv2.tensorrt._settings import Settings

BOUNDS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}
SQUARE = Layer(6, (3, 3), (1, 1), (1, 1))
ODD = Layer(40, (2, 3), (2, 1), (1, 0), (1, 2), 2)
API = standin_api()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host()
    monkeypatch.setattr(_execution, "load", found.load)
    monkeypatch.setattr(_execution, "_device", lambda: (86, 4))
    return found


def make_plugin(settings: Settings) -> tuple[Any, list[str]]:
    failures: list[str] = []
    teller = Failures()
    teller.tell(failures)
    return make_plugin_classes(API)[0](settings, "DeformConv 'it'", teller), failures


def settings_of(layer: Layer) -> Settings:
    (top, left) = layer.padding
    return Settings(layer.kernel, layer.stride, (top, left, top, left), layer.dilation, layer.groups)


class Run:
    """One call: tensors in memory, descriptions, the plugin."""

    def __init__(self, host: Host, given: Inputs, *, last: bool, out_last: bool, bias: bool, mask: bool) -> None:
        self.host, self.given = host, given
        dtype = str(given.x.dtype).removeprefix("torch.")
        layer = given.layer
        tensors = [given.x, given.weight, given.offset, given.bias, given.mask][: 3 + bias + mask]
        form = torch.channels_last if last else torch.contiguous_format
        tensors = [given.x.contiguous(memory_format=form), *(tensor.contiguous() for tensor in tensors[1:])]
        shape = (given.x.shape[0], layer.filters, *given.raw.shape[2:])
        out = torch.full(shape, torch.nan, dtype=given.x.dtype)
        self.inputs = [host.put(tensor) for tensor in tensors]
        self.out = host.put(out.contiguous(memory_format=torch.channels_last if out_last else torch.contiguous_format))
        layouts = ["HWC8" if last else "LINEAR", *["LINEAR"] * (len(tensors) - 1)]
        self.input_desc = [described(tensor.shape, dtype, at) for tensor, at in zip(tensors, layouts, strict=True)]
        self.output_desc = [described(shape, dtype, "HWC8" if out_last else "LINEAR")]
        self.plugin, self.failures = make_plugin(settings_of(layer))
        self.plugin = self.plugin.attach_to_context(None)
        size = self.plugin.get_workspace_size([ranged(tensor.shape, dtype) for tensor in tensors], [])
        self.workspace = host.put(torch.full((size,), 0xA5, dtype=torch.uint8))

    def enqueue(self) -> torch.Tensor:
        code = self.plugin.enqueue(self.input_desc, self.output_desc, self.inputs, [self.out], self.workspace, STREAM)
        assert code == 0
        assert self.failures == []
        return self.host.at(self.out)

    def expected(self) -> Any:
        given = self.given
        ones, zeros = torch.ones_like(given.raw), torch.zeros_like(given.bias)
        mask = given.mask if len(self.inputs) > 4 else ones[:, : given.mask.shape[1]]
        raw = torch.cat([given.offset, mask], 1)
        bias = given.bias if len(self.inputs) > 3 else zeros
        return Inputs(given.layer, given.x, raw, given.weight, bias).definition(sigmoid=False)


@pytest.mark.parametrize(("bias", "mask"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("layer", [SQUARE, ODD], ids=["square", "odd"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_kernel_for_dense_planes_computes_the_definition(
    host: Host, dtype: str, layer: Layer, bias: bool, mask: bool
) -> None:
    given = inputs(layer, getattr(torch, dtype), 12, (5, 7), batch=2, last=False, raw_last=False)
    run = Run(host, given, last=False, out_last=False, bias=bias, mask=mask)
    assert distance(run.enqueue(), run.expected()) < BOUNDS[dtype]
    assert [name for name, _, _ in host.launches] == ["convkit_dcnv2_pack", "convkit_dcnv2_plain"]


@pytest.mark.parametrize("out_last", [True, False])
@pytest.mark.parametrize(("bias", "mask"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("layer", [Layer(8, (3, 3), padding=(1, 1)), ODD], ids=["square", "odd"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_kernel_for_tensor_cores_computes_the_definition(
    host: Host, dtype: str, layer: Layer, bias: bool, mask: bool, out_last: bool
) -> None:
    given = inputs(layer, getattr(torch, dtype), 16, (6, 7), batch=2, raw_last=False)
    run = Run(host, given, last=True, out_last=out_last, bias=bias, mask=mask)
    assert distance(run.enqueue(), run.expected()) < BOUNDS[dtype]
    assert [name for name, _, _ in host.launches] == ["convkit_dcnv2_pack", "convkit_dcnv2_tensor"]


def test_channels_last_without_tensor_cores(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_execution, "_device", lambda: (75, 4))
    given = inputs(Layer(8, (3, 3), padding=(1, 1)), torch.float16, 16, (6, 7), raw_last=False)
    run = Run(host, given, last=True, out_last=True, bias=True, mask=True)
    assert distance(run.enqueue(), run.expected()) < BOUNDS["float16"]
    assert host.launches[-1][0] == "convkit_dcnv2_plain"


def test_padding_may_differ_on_opposite_sides(host: Host) -> None:
    given = inputs(SQUARE, torch.float32, 4, (5, 7), last=False, raw_last=False)
    run = Run(host, given, last=False, out_last=False, bias=True, mask=True)
    smaller = Settings((3, 3), (1, 1), (1, 1, 0, 2))
    run.plugin, run.failures = make_plugin(smaller)
    offset, mask = given.offset[:, :, :4].contiguous(), given.mask[:, :, :4].contiguous()
    offset, mask = (torch.nn.functional.pad(tensor, (0, 1)) for tensor in (offset, mask))
    out = torch.full((1, 6, 4, 8), torch.nan)
    run.inputs[2], run.inputs[4], run.out = host.put(offset), host.put(mask), host.put(out)
    for place, tensor in ((2, offset), (4, mask)):
        run.input_desc[place] = described(tensor.shape)
    run.output_desc = [described(out.shape)]
    expected = Inputs(SQUARE, given.x, torch.cat([offset, mask], 1), given.weight, given.bias).definition(sigmoid=False)
    assert distance(run.enqueue(), expected) < 1e-5


def test_order_of_arguments_and_stream(host: Host) -> None:
    host.run = False
    run = Run(host, inputs(SQUARE, torch.float32, 4, (5, 7), batch=3), last=False, out_last=False, bias=True, mask=True)
    run.enqueue()
    x, weight, offset, bias, mask = run.inputs
    (_, packing, first), (_, convolving, second) = host.launches
    assert packing[:2] == (weight, run.workspace)
    assert convolving[:6] == (x, offset, mask, run.workspace, bias, run.out)
    assert convolving[6:13] == (3, 4, 5, 7, 6, 5, 7)
    assert first == second == STREAM


def test_weights_that_changed_at_their_address_are_used(host: Host) -> None:
    given = inputs(SQUARE, torch.float32, 4, (5, 7), last=False, raw_last=False)
    run = Run(host, given, last=False, out_last=False, bias=True, mask=True)
    before = run.enqueue().clone()
    host.at(run.inputs[1]).mul_(-1)
    host.at(run.inputs[3]).mul_(-1)
    assert distance(run.enqueue(), -before) < 1e-6


def test_kernels_are_loaded_when_the_shape_changes_and_not_again(host: Host) -> None:
    host.run = False
    run = Run(host, inputs(SQUARE, torch.float32, 4, (5, 7)), last=False, out_last=False, bias=True, mask=True)
    run.plugin.on_shape_change(run.input_desc, run.output_desc)
    assert len(host.loaded) == 2
    for _ in range(3):
        run.enqueue()
    assert len(host.loaded) == 2
    other = Run(host, inputs(SQUARE, torch.float32, 4, (5, 7), batch=2), last=False, out_last=False, bias=1, mask=1)
    run.plugin.enqueue(other.input_desc, other.output_desc, other.inputs, [other.out], other.workspace, STREAM)
    assert len(host.loaded) == 4
    assert host.launches[-1][1][6] == 2, "the batch of the new shape"


def test_contexts_do_not_share_shapes(host: Host) -> None:
    host.run = False
    run = Run(host, inputs(SQUARE, torch.float32, 4, (5, 7)), last=False, out_last=False, bias=True, mask=True)
    run.enqueue()
    twin = run.plugin.attach_to_context(None)
    assert twin is not run.plugin
    assert twin.execution is None
    assert twin.settings == run.plugin.settings


def test_an_empty_batch_launches_nothing(host: Host) -> None:
    plugin, failures = make_plugin(settings_of(SQUARE))
    shapes = ((0, 4, 5, 7), (6, 4, 3, 3), (0, 18, 5, 7))
    given, out = [described(shape) for shape in shapes], [described((0, 6, 5, 7))]
    assert plugin.enqueue(given, out, [0, 0, 0], [0], 0, STREAM) == 0
    assert host.launches == []
    assert failures == []


@pytest.mark.parametrize("place", range(6))
def test_a_call_that_does_not_fit_fails_by_name(host: Host, place: int) -> None:
    run = Run(host, inputs(SQUARE, torch.float32, 4, (5, 7)), last=False, out_last=False, bias=True, mask=True)
    wrong = [*run.input_desc, *run.output_desc]
    shape = list(wrong[place].dims)
    shape[-1] += 1
    wrong[place] = described(shape)
    with pytest.raises(PluginError, match="shape"):
        run.plugin.on_shape_change(wrong[:5], wrong[5:])
    assert len(run.failures) == 1
    assert run.failures[0].startswith("DeformConv 'it', on_shape_change: ")


def test_misplaced_memory_and_other_formats_are_refused(host: Host) -> None:
    run = Run(host, inputs(SQUARE, torch.float32, 4, (5, 7)), last=False, out_last=False, bias=True, mask=True)
    run.inputs[0] += 4
    with pytest.raises(KernelArgumentError, match="multiple of 16"):
        run.plugin.enqueue(run.input_desc, run.output_desc, run.inputs, [run.out], run.workspace, STREAM)
    run.input_desc[0] = described(run.input_desc[0].dims, layout="CHW2")
    with pytest.raises(PluginError, match="CHW2"):
        run.plugin.on_shape_change(run.input_desc, run.output_desc)
    assert [text.split(":")[0] for text in run.failures] == [
        "DeformConv 'it', enqueue", "DeformConv 'it', on_shape_change",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["attach_to_context", "set_tactic", "on_shape_change", "enqueue"])
def test_what_fails_at_run_time_is_told(host: Host, name: str) -> None:
    plugin, failures = make_plugin(settings_of(SQUARE))
    method = getattr(type(plugin), name)

    def planted(self: Any, *arguments: Any) -> Any:
        raise RuntimeError("planted")

    method.__wrapped__ = planted
    try:
        returned = method(plugin)
    except RuntimeError:
        returned = None
    assert failures == [f"DeformConv 'it', {name}: RuntimeError: planted"]
    assert returned is not plugin, "TensorRT would delete it twice"
    assert isinstance(returned, type(plugin)) == (name == "attach_to_context")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layer", [SQUARE, ODD, Layer(130, (1, 1)), Layer(300, (5, 5), groups=4)])
def test_the_workspace_is_enough_for_every_number_of_pixels(host: Host, layer: Layer, dtype: str) -> None:
    host.run = False
    size = _execution.workspace_bytes(layer, 48, dtype)
    for side in (4, 40, 400):
        for last in (False, dtype != "float32"):
            place = _execution.Place((2, 48, side, side), last)
            out = _execution.Place((2, layer.filters, side, side), last)
            found = _execution.prepare(layer, dtype, place, out, mask=False)
            assert found.zeros + layer.filters * (4 if dtype == "float32" else 2) <= size


def test_the_creator_registers_once_and_refuses_a_name_that_is_taken() -> None:
    api = standin_api("once")
    first, second = [], []
    creator = _creator.register_creator(api, first)
    assert _creator.register_creator(api, second) is creator
    assert creator.create_plugin("node", [api.PluginField("group", torch.tensor([2]).int().numpy(), "")], None) is None
    assert first == second
    assert "grouped" in first[0]
    assert "dcn=grid-sample" in first[0]

    other = standin_api("taken")
    other.get_plugin_registry().creators["DeformConv", "1", ""] = object()
    with pytest.raises(PluginError, match="has registered") as caught:
        _creator.register_creator(other, [])
    assert "dcn=grid-sample" in caught.value.hint


def test_a_process_that_runs_engines_needs_no_torch() -> None:
    code = (
        "import sys; from support.plugin_api import standin_api\n"
        "from convkit.backends._tensorrt_plugin import load_function, own_plugins\n"
        "(plugin,) = own_plugins('tensorrt-rtx', ['DeformConv'])\n"
        "creator = load_function(plugin.register)(standin_api(), [])\n"
        "assert creator.create_plugin('it', [], None) is not None\n"
        "print([name for name in ('torch', 'onnx', 'onnx_graphsurgeon') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "[]"
