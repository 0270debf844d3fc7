"""Running an artifact: the predictor, the pipeline on the GPU."""

from convkit.runtime._cuda import Cuda
from convkit.runtime._device_pipeline import Device, DevicePipeline, Item
from convkit.runtime._predictor import GpuPredictor, Predictor, load

__all__ = [
    "Cuda",
    "Device",
    "DevicePipeline",
    "GpuPredictor",
    "Item",
    "Predictor",
    "load",
]
