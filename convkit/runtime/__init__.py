"""Running an artifact: the predictor, the device pipeline."""

from convkit.runtime._cuda import Cuda
from convkit.runtime._device_pipeline import Device, DevicePipeline, Item
from convkit.runtime._predictor import DevicePredictor, Predictor, load

__all__ = [
    "Cuda",
    "Device",
    "DevicePipeline",
    "DevicePredictor",
    "Item",
    "Predictor",
    "load",
]
