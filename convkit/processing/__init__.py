"""Preprocess and decode: the protocols, the look-up among plugins, reading images."""

from convkit.processing._images import Frame, as_bgr, find_images, frames, read_image
from convkit.processing._protocols import (
    ArraySpec,
    Decode,
    DeviceDecode,
    DevicePreprocess,
    Placement,
    Prepared,
    Preprocess,
)
from convkit.processing._registry import device_decode, device_preprocess, find_decode, find_preprocess
from convkit.processing._scenes import synthetic_scenes

__all__ = [
    "ArraySpec",
    "Decode",
    "DeviceDecode",
    "DevicePreprocess",
    "Frame",
    "Placement",
    "Prepared",
    "Preprocess",
    "as_bgr",
    "device_decode",
    "device_preprocess",
    "find_decode",
    "find_images",
    "find_preprocess",
    "frames",
    "read_image",
    "synthetic_scenes",
]
