"""The adapter: one checkpoint in, one model with its specification out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convkit import Adapter, Dim, ModelSpec, Option, Request, SourceModel
from convkit_models.centernet._names import COCO_MEAN, COCO_STD, KITTI_CALIBRATION

__all__ = ["CenterNet"]


class CenterNet(Adapter):
    """CenterNet ("Objects as Points", Zhou et al. 2019) with any of its networks and tasks.

    Both follow from the checkpoint: the network from names and shapes, the task from the heads.

    Mean and standard deviation are by default, but in ddd, those of the COCO data set class, in BGR order: the
    networks were trained with these, and the published APs measured. The original's demo rounds
    them to three digits; ``--set mean=0.408,0.447,0.470 --set std=0.289,0.274,0.278`` does the same.
    """

    name = "centernet"
    summary = (
        "CenterNet for boxes, poses, 3-D boxes: res_18 … res_152, resdcn_18 … resdcn_152, dla_34, dlav0_34, hourglass"
    )
    forms = ("heads", "tensorrt-pro", "detections")
    weights_folder = True
    dims = (
        Dim("batch", 1, 1, 8),
        Dim.fixed("height", 512, multiple_of=32),
        Dim.fixed("width", 512, multiple_of=32),
    )
    options = (
        Option(
            "resize",
            "fix_res",
            "fix_res warps each image to height x width; keep_res keeps its scale and needs ranges for both",
            ("fix_res", "keep_res"),
        ),
        Option("mean", COCO_MEAN, "mean of each channel in BGR order, of values in 0..1"),
        Option("std", COCO_STD, "standard deviation of each channel in BGR order, of values in 0..1"),
        Option("entry", "", "where a file has several copies of the weights, the one to take, such as ema"),
        Option("topk", 100, "most detections an image"),
        Option(
            "decode",
            "official",
            "official takes the best peaks; tensorrt-pro one box a cell above a confidence, with suppression by class;"
            " fixed mends the faults of the original in exdet and ddd",
            ("official", "tensorrt-pro", "fixed"),
        ),
        Option("confidence", 0.25, "lowest score with decode=tensorrt-pro"),
        Option("nms", 0.5, "largest overlap of boxes of a class with decode=tensorrt-pro"),
        Option("calibration", KITTI_CALIBRATION, "3 x 4 matrix of the camera, row by row, for boxes in space (ddd)"),
        Option("aggregate", 0.0, "weight of the edge's strength in extreme points (exdet); ExtremeNet has 0.1"),
    )
    opset = 20

    def defaults(self, weights: Path, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the size, mean and standard deviation that a network for boxes in space was trained with."""
        from convkit_models.centernet._checkpoint import read_shapes
        from convkit_models.centernet.networks import infer_layout
        from convkit_models.centernet.tasks import choose_task

        layout = infer_layout(read_shapes(weights, options["entry"]), str(weights))
        return choose_task(layout, str(weights)).defaults

    def load(self, request: Request) -> SourceModel:
        """Read the checkpoint, infer its network, and return that with the checkpoint's weights.

        Raises:
            CheckpointError: the file is not a safe, complete checkpoint of one of the networks.
            SettingError: the request does not go with the network.
        """
        from convkit_models.centernet._checkpoint import read_checkpoint
        from convkit_models.centernet.networks import check_fit, expected_shapes, infer_layout, restore
        from convkit_models.centernet.tasks import choose_task, graph_spec, unused_options

        checkpoint = read_checkpoint(request.weights, request.options.get("entry", ""))
        shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.state.items()}
        source = str(request.weights)
        layout = infer_layout(shapes, source)
        task = choose_task(layout, source)
        check_fit(layout, expected_shapes(layout), shapes, source)
        task.room.check_heads(layout, source)
        declared = {option.name: option.default for option in self.options}
        followed = {name: value for name, value in task.defaults.items() if name in declared}
        options = declared | followed | dict(request.options)
        network = restore(layout, checkpoint.state)
        info: dict[str, Any] = {
            "architecture": layout.architecture,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "task": task.name,
            "heads": layout.channels,
            "head_conv": {head.name: head.hidden for head in layout.heads},
            "widths": list(layout.widths),
            "epoch": checkpoint.epoch,
            "file_format": checkpoint.serialisation,
            "notes": list(checkpoint.notes),
        }
        spec = task.room.describe(request, layout, options, info)
        spec = replace(spec, info={**spec.info, "classes": len(spec.classes)})
        return SourceModel(network, spec, task.room.reference(graph_spec(spec)), unused_options(spec, options))

    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[Any]:
        """Return synthetic scenes: shapes on a textured ground, with the spectrum of natural images.

        A network that takes the image before gets its arrays.
        """
        if not spec.preprocess:
            from convkit_models.centernet.tasks.tracking import tensors

            return tensors(spec, count, seed)
        from convkit import synthetic_scenes

        return synthetic_scenes(count, seed=seed)
