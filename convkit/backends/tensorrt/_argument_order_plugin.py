"""A tiny ahead-of-time plugin of full TensorRT that writes back its arguments."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import GenericAlias
from typing import Any

from convkit.backends.tensorrt._argument_order import NAME, NAMESPACE, SEVEN
from convkit.cuda import Argument, Kernel, LaunchConfig, cdiv, check_signature, compile_variant

__all__ = ["KERNEL", "register_argument_order"]

THREADS = 128
TARGET = "compute_75"
"""Every GPU that full TensorRT knows compiles the code of this one."""
KERNEL = Kernel(
    name="convkit_argument_order",
    source=Path(__file__).with_name("kernels") / "argument_order.cu",
    arguments=(
        Argument("first", "float32"),
        Argument("second", "float32"),
        Argument("seven", "int32", pointer=False),
        Argument("count", "int32", pointer=False),
        Argument("triple", "int32", pointer=False),
        Argument("numbers", "float32", output=True),
        Argument("copy", "float32", output=True),
    ),
    sizes=("count",),
    launch_config=lambda count: LaunchConfig((cdiv(count, THREADS), 1, 1), (THREADS, 1, 1)),
)


def register_argument_order(api: Any, failures: list[str]) -> list[object]:
    """Register the plugin; see `TensorRTPlugin.register`.

    Raises:
        KernelError: its code is not that of the arguments declared here.
        EnvironmentProblem: NVRTC is missing.
    """
    trtp: Any = importlib.import_module(f"{api.__name__}.plugin")
    variant = KERNEL.variant()
    image = compile_variant(variant, TARGET, "ptx")
    check_signature(image, variant)

    def describe(first: Any, second: Any) -> Any:
        return first.like(), second.like()

    def kernel(first: Any, second: Any, outputs: Any, tactic: int) -> Any:
        count = first.shape_expr[0]
        extra = trtp.SymIntExprs(3)
        try:
            launch = trtp.KernelLaunchParams(grid_x=trtp.cdiv(count, THREADS), block_x=THREADS)
            for index, value in enumerate((SEVEN, count, count * 3)):
                extra[index] = trtp.SymInt32(value)
        except Exception as error:
            failures.append(f"{NAME}: {type(error).__name__}: {error}")
            raise
        return KERNEL.name, image.text, launch, extra

    # The bindings read annotations as types, which this module's annotations are not.
    two = GenericAlias(tuple, (trtp.TensorDesc, trtp.TensorDesc))
    text = str | bytes
    answer = GenericAlias(tuple, (text, text, trtp.KernelLaunchParams, trtp.SymIntExprs))
    inputs = {"first": trtp.TensorDesc, "second": trtp.TensorDesc}
    describe.__annotations__ = {**inputs, "return": two}
    kernel.__annotations__ = {**inputs, "outputs": two, "tactic": int, "return": answer}
    identifier = f"{NAMESPACE}::{NAME}"
    return [trtp.register(identifier)(describe), trtp.aot_impl(identifier)(kernel)]
