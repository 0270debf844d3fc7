"""Deformable layers of other projects are recognised, run without their extension, and left as they were."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convkit import Target
from convkit.model import PatchRecord, patched
from convkit_plugins import dcnv2
from convkit_plugins.dcnv2 import DCN, deform_conv2d

logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class ForeignDCNv2(nn.Module):
    """A layer as the extensions ship it: offsets and mask come from outside, the forward is CUDA only."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.deformable_groups = deformable_groups
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *self.kernel_size) * 0.2)
        self.bias = nn.Parameter(torch.randn(out_channels))

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError


class ForeignDCN(ForeignDCNv2):
    """The same with its own offset convolution, which starts with offsets of a few pixels here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channels = 3 * self.deformable_groups * self.kernel_size[0] * self.kernel_size[1]
        self.conv_offset_mask = nn.Conv2d(
            self.weight.shape[1], channels, self.kernel_size, self.stride, self.padding, bias=True
        )
        nn.init.normal_(self.conv_offset_mask.bias, 0, 2)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        raise NotImplementedError


class VisionLayer(nn.Module):
    """The interface of torchvision.ops.DeformConv2d: groups are counted from the offsets, mask and bias may lack."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = (1, 1), (1, 1), (1, 1), groups
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels // groups, kernel, kernel) * 0.2)
        self.register_parameter("bias", nn.Parameter(torch.randn(out_channels)) if bias else None)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        raise NotImplementedError


def records_of(model: nn.Module) -> dict[str, PatchRecord]:
    """Return what the patches make of a model that is not run."""
    with patched(model, dcnv2.convkit_export_patches()) as records:
        pass
    return {record.name: record for record in records}


LAYER, GIVEN = "dcnv2.layer", "dcnv2.layer-with-given-offsets"


@pytest.mark.parametrize(
    "settings",
    [(4, 6, 3, 1, 1), (4, 6, 3, (2, 2), (1, 1), (1, 1), 2), (4, 6, (2, 3), (1, 2), (1, 0), 1, 4), (4, 6, 1, 1, 0, 2)],
)
def test_a_foreign_layer_computes_what_ours_does(settings: tuple[Any, ...]) -> None:
    torch.manual_seed(0)
    foreign = nn.Sequential(nn.ReLU(), ForeignDCN(*settings))
    ours = DCN(*settings)
    ours.load_state_dict(foreign[1].state_dict(), strict=True)
    x = torch.rand(2, 4, 8, 9)
    with pytest.raises(NotImplementedError):
        foreign(x)
    with patched(foreign, dcnv2.convkit_export_patches()) as records:
        torch.testing.assert_close(foreign(x), ours(x), rtol=0, atol=1e-6)
    assert [(record.name, record.sites, record.fired) for record in records] == [(LAYER, ["1"], 1), (GIVEN, [], 0)]
    assert "forward" not in vars(foreign[1])
    with pytest.raises(NotImplementedError):
        foreign(x)


def test_a_layer_with_given_offsets_and_mask() -> None:
    torch.manual_seed(0)
    layer = ForeignDCNv2(4, 6, 3, 1, 1, 1, 2)
    x, offset, mask = torch.randn(2, 4, 5, 6), torch.randn(2, 36, 5, 6), torch.rand(2, 18, 5, 6)
    expected = deform_conv2d(x, layer.weight, offset, layer.bias, mask, 1, 1, 1, 2)
    with patched(layer, dcnv2.convkit_export_patches()) as records:
        assert torch.equal(layer(x, offset, mask), expected)
        assert torch.equal(layer(mask=mask, input=x, offset=offset), expected)
    assert [record.fired for record in records] == [0, 1]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_layer_that_counts_its_groups_from_the_offsets(groups: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = VisionLayer(4, 6, 3, bias=bias)
    x, offset, mask = torch.randn(2, 4, 5, 6), torch.randn(2, 18 * groups, 5, 6), torch.rand(2, 9 * groups, 5, 6)
    with_mask = deform_conv2d(x, layer.weight, offset, layer.bias, mask, 1, 1, 1, groups)
    without = deform_conv2d(x, layer.weight, offset, layer.bias, torch.ones_like(mask), 1, 1, 1, groups)
    with patched(layer, dcnv2.convkit_export_patches()):
        assert torch.equal(layer(x, offset, mask), with_mask)
        assert torch.equal(layer(x, offset), without)
        assert torch.equal(layer(x, offset, mask=None), without)


class Detector(nn.Module):
    """Both kinds of foreign layers in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ModuleDict({"proj": ForeignDCN(3, 4, 3, 1, 1)})
        self.offsets = nn.Conv2d(4, 18, 3, padding=1)
        self.head = VisionLayer(4, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.up["proj"](images)
        return self.head(features, self.offsets(features))


@pytest.mark.slow
def test_a_model_of_foreign_layers_exports_to_standard_nodes() -> None:
    model = Detector().eval()
    with warnings.catch_warnings(), patched(model, dcnv2.convkit_export_patches()) as records:
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            model,
            (torch.randn(1, 3, 8, 8),),
            dynamo=True,
            verbose=False,
            opset_version=20,
            custom_translation_table=dcnv2.convkit_onnx_translations(Target()),
        )
    assert [(record.name, record.sites) for record in records] == [(LAYER, ["up.proj"]), (GIVEN, ["head"])]
    nodes = [node for node in program.model_proto.graph.node if node.op_type == "DeformConv"]
    assert [node.input[1] for node in nodes] == ["up.proj.weight", "head.weight"]
    assert all(len(node.input) == 5 and all(node.input) for node in nodes)


def test_our_own_layers_and_ordinary_ones_are_left_alone() -> None:
    class Ours(DCN):
        pass

    model = nn.Sequential(
        DCN(4, 4, 3, 1, 1), Ours(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3), nn.LSTM(4, 4), nn.Bilinear(2, 2, 2)
    )
    unsigned = nn.Linear(2, 2)
    unsigned.forward = max  # a callable that tells no signature
    model.append(unsigned)
    assert all(not record.sites and not record.near_misses for record in records_of(model).values())


def changed(**attributes: Any) -> ForeignDCN:
    layer = ForeignDCN(4, 6, 3, 1, 1)
    for name, value in attributes.items():
        delattr(layer, name)
        if value is not None:
            setattr(layer, name, value)
    return layer


LAYER_MISSES = {
    "groups attribute": (lambda: changed(deformable_groups=None), "none of the attributes deformable_groups"),
    "offset channels": (
        lambda: changed(conv_offset_mask=nn.Conv2d(4, 18, 3, 1, 1)),
        "conv_offset_mask has 18 output channels; 1 offset groups of 3 x 3 taps need 27",
    ),
    "offset convolution": (lambda: changed(conv_offset_mask=nn.Linear(4, 27)), "is a Linear, not a Conv2d"),
    "offset stride": (lambda: changed(conv_offset_mask=nn.Conv2d(4, 27, 3, 2, 1)), "a map of another size"),
    "offset dilation": (lambda: ForeignDCN(4, 6, 3, 1, 2, 2), "a map of another size"),
    "offset padding": (lambda: changed(conv_offset_mask=nn.Conv2d(4, 27, 3, padding="same")), "a map of another size"),
    "weight": (lambda: changed(weight=nn.Parameter(torch.randn(4, 6, 3))), "no weight of shape [out, in, kh, kw]"),
    "stride": (lambda: changed(stride=None), "has no attribute stride"),
    "padding": (lambda: changed(padding="same"), "its padding is 'same', neither a number nor two"),
}


@pytest.mark.parametrize("case", LAYER_MISSES)
def test_near_misses_of_layers_say_why(case: str) -> None:
    build, reason = LAYER_MISSES[case]
    record = records_of(nn.ModuleDict({"neck": build()}))[LAYER]
    assert not record.sites
    assert len(record.near_misses) == 1
    assert record.near_misses[0].startswith("neck: ")
    assert reason in record.near_misses[0]


def test_an_offset_convolution_of_another_kernel_will_do_if_the_sizes_agree() -> None:
    record = records_of(changed(conv_offset_mask=nn.Conv2d(4, 27, 5, 1, 2)))[LAYER]
    assert record.sites == ["ForeignDCN"]


def test_near_misses_of_layers_with_given_offsets_say_why() -> None:
    class Swapped(VisionLayer):
        def forward(self, offset: Tensor, input: Tensor) -> Tensor:  # type: ignore[override]
            raise NotImplementedError

    model = nn.ModuleDict({"grouped": VisionLayer(4, 4, 3, groups=2), "swapped": Swapped(4, 4, 3)})
    record = records_of(model)[GIVEN]
    assert not record.sites
    assert record.near_misses == [
        "grouped: its convolution has 2 groups; the operator has one",
        "swapped: forward takes (offset, input), not (input, offset, mask)",
    ]
