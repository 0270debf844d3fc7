"""CUDA kernels on the CPU: the same source, built by a C++ compiler, with guard pages and a race detector.

`run_on_host` runs one launch of a kernel on NumPy arrays, so that tests need no GPU. It finds

* accesses outside of an array, misaligned ones and undefined arithmetic (``guard``);
* barriers that some threads never reach, and lanes of a warp that wait at different operations (always);
* results that depend on the order of threads or blocks (``order``), and uninitialised shared memory, which is NaN;
* races in shared memory, in any order of execution (``races``).

`host_device` puts a device of host memory in the place of the GPU, so that a device side of an adapter, a
`convkit.DevicePreprocess` or `convkit.DeviceDecode`, runs as it is.

Supported: grids and blocks in three dimensions, static and dynamic shared memory, block barriers and votes, warp
shuffles, votes and ``__syncwarp``, atomics, the arithmetic in ``include/host_functions.h``, and what headers emulate
themselves, such as the mbarriers of an asynchronous pipeline. Code within ``#if CONVKIT_DEVICE`` is left out, because
inline PTX and tensor cores need a GPU. Elementary functions round as the C library does. Linux, g++ or clang++.

``include/host.h`` schedules threads, ``host_races.h`` detects races (and lists what it does not detect),
``host_functions.h`` defines CUDA's functions, ``host_guard.h`` isolates arrays and runs the launch in a child process.
"""

from convkit.testing.cuda_host._device import HostArray, HostDevice, host_device
from convkit.testing.cuda_host._run import Order, host_problem, run_on_host

__all__ = ["HostArray", "HostDevice", "Order", "host_device", "host_problem", "run_on_host"]
