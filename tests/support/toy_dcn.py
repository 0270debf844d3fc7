"""The toy adapter with a deformable convolution in the place of its second one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from support.toy import ToyAdapter, ToyPlugin

from convkit import Adapter, Request, SourceModel, hookimpl
from convkit_plugins.dcnv2 import DCN


class DeformableAdapter(ToyAdapter):
    def load(self, request: Request) -> SourceModel:
        source = super().load(request)
        torch.manual_seed(0)
        layer = DCN(8, 16, 3, 1, 1).eval()
        torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.05)
        torch.nn.init.normal_(layer.bias)
        source.module.body = layer
        return source


class DeformableToyPlugin(ToyPlugin):
    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        return [DeformableAdapter()]
