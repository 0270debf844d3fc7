"""A plugin's launches on the CPU: memory with addresses, and launchers that run the kernels on it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from support.deform_host import memory
from torch import Tensor

from convkit.cuda import LaunchConfig, Variant
from convkit.testing.cuda_host import run_on_host

STREAM = 0x5EED


@dataclass
class Host:
    """The memory and the launches of one test; ``load`` takes the place of `convkit.cuda.load`."""

    tensors: list[Tensor] = field(default_factory=list)
    launches: list[tuple[str, tuple[Any, ...], Any]] = field(default_factory=list)
    """Name of the kernel, arguments and stream."""
    loaded: list[Variant] = field(default_factory=list)
    run: bool = True

    def put(self, tensor: Tensor) -> int:
        """Return the address of a tensor, which is a multiple of 64, and keep it."""
        room = torch.zeros(tensor.untyped_storage().nbytes() + 64, dtype=torch.uint8)
        start = -room.data_ptr() % 64
        flat = room[start:][: tensor.untyped_storage().nbytes()].view(tensor.dtype)
        placed = flat.as_strided(tensor.shape, tensor.stride()).copy_(tensor)
        self.tensors.append(placed)
        return placed.data_ptr()

    def at(self, address: int) -> Tensor:
        """Return the tensor at an address."""
        return next(tensor for tensor in self.tensors if tensor.data_ptr() == address)

    def load(self, variant: Variant) -> Any:
        """Return what launches a variant on this host."""
        self.loaded.append(variant)
        return _Launcher(self, variant)

    def _bytes(self, address: int) -> np.ndarray:
        for tensor in self.tensors:
            start, count = tensor.data_ptr(), memory(tensor).nbytes
            if start <= address < start + count:
                raw = (ctypes.c_uint8 * (start + count - address)).from_address(address)
                return np.frombuffer(raw, np.uint8)
        raise AssertionError(f"no tensor is at address {address:#x}")


@dataclass
class _Launcher:
    host: Host
    variant: Variant

    def launch_config(self, **sizes: int) -> LaunchConfig:
        return self.variant.launch_config(**sizes).check()

    def __call__(self, config: LaunchConfig, *arguments: Any, stream: Any = None) -> None:
        kernel = self.variant.kernel
        assert len(arguments) == len(kernel.arguments)
        self.host.launches.append((kernel.name, arguments, stream))
        if self.host.run:
            values = [
                self._array(value, self.variant.dtype(argument)) if argument.pointer else value
                for argument, value in zip(kernel.arguments, arguments, strict=True)
            ]
            run_on_host(self.variant, config, values)

    def _array(self, address: int, dtype: str) -> np.ndarray:
        return self.host._bytes(address).view(np.uint16 if dtype == "bfloat16" else dtype)
