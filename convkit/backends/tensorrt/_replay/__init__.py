"""Execute a network that TensorRT's parser built in PyTorch on the CPU, from its layers' own attributes and weights."""

from convkit.backends.tensorrt._replay import _arranging, _making, _pointwise, _sampling, _sums, _windows
from convkit.backends.tensorrt._replay._call import REPLAYS, NotReplayed
from convkit.backends.tensorrt._replay._run import ReplayError, missing_replays, replay, trace

__all__ = ["REPLAYS", "NotReplayed", "ReplayError", "missing_replays", "replay", "trace"]

del _arranging, _making, _pointwise, _sampling, _sums, _windows  # imported to enter their replays
