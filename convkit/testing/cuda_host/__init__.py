"""CUDA kernels on the CPU: the same source, built by a C++ compiler, with guard pages and a race detector."""

from convkit.testing.cuda_host._run import Order, run_on_host

__all__ = [
    "Order",
    "run_on_host",
]
