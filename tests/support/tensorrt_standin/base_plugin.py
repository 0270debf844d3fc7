"""A plugin like DCNv2, right in every respect; `support.tensorrt_mutants` plants faults in it.

Inputs are x, offset, mask, weight and bias. Every attribute is an array of one integer, the form that all versions of
bindings and NumPy take. The code is PTX with the right parameters and an empty body: nothing runs it.
"""
# The annotations below have to be types: without "from __future__ import annotations".

import numpy as np
import numpy.typing as npt
import tensorrt.plugin as trtp

Ints = npt.NDArray[np.int32]
SHARED = 4096
BLOCKS = {1: 128, 2: 256}


def ptx(name: str, inputs: int = 5, extra: int = 10, outputs: int = 1, block: int = 256) -> str:
    """Return a kernel that does nothing with the parameters that TensorRT passes, in its order."""
    kinds = ["u64"] * inputs + ["u32"] * extra + ["u64"] * outputs
    listed = ",\n".join(f"\t.param .{kind} {name}_param_{index}" for index, kind in enumerate(kinds))
    head = ".version 8.0\n.target sm_80\n.address_size 64\n"
    return f"{head}.visible .entry {name}(\n{listed}\n)\n.maxntid {block}, 1, 1\n{{\n\tret;\n}}\n"


@trtp.register("convkit_test::DCNv2")
def describe(
    x: trtp.TensorDesc, offset: trtp.TensorDesc, mask: trtp.TensorDesc, weight: trtp.TensorDesc, bias: trtp.TensorDesc,
    stride: Ints, padding: Ints, dilation: Ints, groups: Ints,
) -> trtp.TensorDesc:  # fmt: skip
    """Return type and shape of the output."""
    out = x.like()
    kernel = weight.shape_expr
    for axis in (2, 3):
        size = x.shape_expr[axis] + 2 * int(padding[0]) - (kernel[axis] - 1) * int(dilation[0]) - 1
        out.shape_expr[axis] = size // int(stride[0]) + 1
    out.shape_expr[1] = kernel[0]
    return out


@trtp.autotune("convkit_test::DCNv2")
def variants(
    x: trtp.TensorDesc, offset: trtp.TensorDesc, mask: trtp.TensorDesc, weight: trtp.TensorDesc, bias: trtp.TensorDesc,
    outputs: tuple[trtp.TensorDesc],
) -> list[trtp.AutoTuneCombination]:  # fmt: skip
    """Return the types, formats and tactics that there are kernels for."""
    choice = trtp.AutoTuneCombination()
    choice.pos([0, 1, 2, 3, 4, 5], "FP32|FP16", "LINEAR")
    choice.tactics([1, 2])
    return [choice]


@trtp.aot_impl("convkit_test::DCNv2")
def kernel(
    x: trtp.TensorDesc, offset: trtp.TensorDesc, mask: trtp.TensorDesc, weight: trtp.TensorDesc, bias: trtp.TensorDesc,
    stride: Ints, padding: Ints, dilation: Ints, groups: Ints,
    outputs: tuple[trtp.TensorDesc], tactic: int,
) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:  # fmt: skip
    """Return name, code, launch configuration and integers of the kernel of a tactic."""
    block = BLOCKS[tactic]
    batch, channels, height, width = (x.shape_expr[axis] for axis in range(4))
    out = outputs[0].shape_expr
    launch = trtp.KernelLaunchParams()
    launch.grid_x = trtp.cdiv(out[2] * out[3], block)
    launch.grid_y = out[1]
    launch.grid_z = batch
    launch.block_x = block
    launch.shared_mem = SHARED
    values = [channels, height, width, out[1], out[2], out[3], stride[0], padding[0], dilation[0], groups[0]]
    extra = trtp.SymIntExprs(len(values))
    for index, value in enumerate(values):
        extra[index] = trtp.SymInt32(int(value) if isinstance(value, np.integer) else value)
    name = f"dcn_{block}"
    return name, ptx(name), launch, extra
