"""Names: of the input, and of the classes in the data sets that the published checkpoints were trained on."""

from __future__ import annotations

from collections.abc import Sequence

from convkit.errors import SettingError

__all__ = [
    *("COCO", "COCO_MEAN", "COCO_STD", "INPUT", "KITTI", "KITTI_CALIBRATION", "KITTI_MEAN", "KITTI_STD", "PASCAL"),
    *("PRE_HM", "PRE_IMAGES"),
    "class_names",
]

INPUT = "images"
"""The input of every network."""
PRE_IMAGES, PRE_HM = "pre_images", "pre_hm"
"""What CenterTrack's networks take besides: the image before, and the map of the centres that were tracked in it."""

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO in the order of their category ids."""

PASCAL = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes of Pascal VOC."""


KITTI = ("Pedestrian", "Car", "Cyclist")
"""The 3 classes of KITTI that boxes in space are found of."""

COCO_MEAN = (0.40789654, 0.44719302, 0.47026115)
COCO_STD = (0.28863828, 0.27408164, 0.27809835)
KITTI_MEAN = (0.485, 0.456, 0.406)
KITTI_STD = (0.229, 0.224, 0.225)
"""Of channels in BGR order, as the original applies them."""
KITTI_CALIBRATION = (
    *(707.0493, 0.0, 604.0814, 45.75831),
    *(0.0, 707.0493, 180.5066, -0.3454157),
    *(0.0, 0.0, 1.0, 0.004981016),
)
"""The camera that the original assumes where none is given: 3 x 4, row by row."""


def class_names(classes: int, own: Sequence[str] | None) -> tuple[str, ...]:
    """Return ``own`` names, or those of COCO (80 classes), Pascal VOC (20), or ``class 0``, ``class 1`` …

    Raises:
        SettingError: there are not as many own names as classes.
    """
    if own is not None:
        if len(own) != len(set(own)):
            twice = next(name for index, name in enumerate(own) if name in own[:index])
            raise SettingError(f"The class name {twice!r} is given twice.", hint="Every class needs its own name.")
        if len(own) != classes:
            raise SettingError(
                f"There are {len(own)} class names, but the network has {classes} classes.",
                hint="Give one name a line in the file of --names, in the order of training.",
            )
        return tuple(own)
    known = {len(names): names for names in (COCO, PASCAL)}
    return known.get(classes) or tuple(f"class {index}" for index in range(classes))
