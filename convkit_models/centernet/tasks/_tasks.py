"""Which task a checkpoint was trained for, going by its heads, and where that task is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from convkit import Dim
from convkit.errors import CheckpointError, listing
from convkit_models.centernet._names import KITTI_MEAN, KITTI_STD
from convkit_models.centernet.tasks._shared import THRESHOLDS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from convkit import Decode, ModelSpec, ModulePatch, Request
    from convkit_models.centernet.networks import Layout

__all__ = ["TASKS", "Room", "Task", "choose_task", "graph_spec", "room_of", "unused_options"]


class Room(Protocol):
    """What the package of a task offers."""

    def check_heads(self, layout: Layout, source: str) -> None:
        """Raise `CheckpointError` where the heads have not the channels of the task."""

    def describe(
        self, request: Request, layout: Layout, options: Mapping[str, Any], info: Mapping[str, Any]
    ) -> ModelSpec:
        """Return the specification of a network."""

    def reference(self, spec: Mapping[str, Any]) -> Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]:
        """Return what runs the untouched network and composes the output form as the original does."""

    def output_patch(self, spec: Mapping[str, Any]) -> ModulePatch:
        """Return the patch that makes the network return the output form."""

    def make_decode(self, spec: Mapping[str, Any]) -> Decode:
        """Return the decode of a specification."""


@dataclass(frozen=True)
class Task:
    """A task: the kind of its decode specification, the heads that it needs, and those that it may have besides.

    A checkpoint with one of ``marks`` is of this task, or broken. ``defaults`` are dimensions and options that the
    adapter's others differ from.
    """

    name: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    marks: frozenset[str]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the decode specification calls it."""
        return f"centernet.{self.name}"

    @property
    def room(self) -> Room:
        """The package of the task."""
        room: Any = import_module(f"{__package__}.{self.name}")
        return cast("Room", room)


TASKS = (
    Task(
        "tracking",
        (),
        (
            *("hm", "wh", "reg", "hps", "hm_hp", "hp_offset", "dep", "rot", "dim"),
            *("id", "tracking", "ltrb", "ltrb_amodal", "amodel_offset", "velocity", "nuscenes_att"),
        ),
        frozenset({"id", "tracking", "ltrb", "ltrb_amodal", "amodel_offset", "velocity", "nuscenes_att"}),
    ),
    Task("multi_pose", ("hm", "wh", "hps"), ("reg", "hm_hp", "hp_offset"), frozenset({"hps", "hm_hp", "hp_offset"})),
    Task(
        "ddd",
        ("hm", "dep", "rot", "dim"),
        ("wh", "reg"),
        frozenset({"dep", "rot", "dim"}),
        {
            "height": Dim.fixed("height", 384, multiple_of=32),
            "width": Dim.fixed("width", 1280, multiple_of=32),
            "mean": KITTI_MEAN,
            "std": KITTI_STD,
        },
    ),
    Task(
        "exdet",
        ("hm_t", "hm_l", "hm_b", "hm_r", "hm_c"),
        ("reg_t", "reg_l", "reg_b", "reg_r"),
        frozenset({"hm_t", "hm_l", "hm_b", "hm_r", "hm_c"}),
    ),
    Task("ctdet", ("hm", "wh"), ("reg",), frozenset()),
)
"""The last one is what a checkpoint without marks was trained for."""


def choose_task(layout: Layout, source: str) -> Task:
    """Return the task that the heads of a network belong to, or its inputs.

    Raises:
        CheckpointError: a head is missing, or there is one of another task.
    """
    heads = layout.channels
    task = next(task for task in TASKS if not task.marks or task.marks & set(heads))
    sides_of_fairmot = task.name == "ctdet" and heads.get("hm") == 1 and heads.get("wh") == 4
    if len(layout.inputs) > 1 or sides_of_fairmot:
        task = TASKS[0]
    for name in task.needed:
        if name not in heads:
            raise CheckpointError(
                f"{source} has no head {name!r}; its heads are {', '.join(heads) or 'none'}.",
                hint=f"The task {task.name} needs the heads {', '.join(task.needed)}. Is the file complete?",
            )
    if other := [name for name in heads if name not in (*task.needed, *task.optional)]:
        raise CheckpointError(
            f"{source} has the heads of the task {task.name}, and others: {listing(other)}.",
            hint="It was trained for another task, or with changed code.",
        )
    return task


def room_of(spec: Mapping[str, Any]) -> Room | None:
    """Return the package whose decode specification this is, if any."""
    return next((task.room for task in TASKS if spec.get("kind") == task.kind), None)


def unused_options(spec: ModelSpec, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that change nothing for a model, each with the reason."""
    task = spec.info["task"]
    found = {}
    if options["decode"] != "tensorrt-pro":
        found.update(dict.fromkeys(THRESHOLDS, "it is a threshold of --set decode=tensorrt-pro"))
    if task != "ddd":
        found["calibration"] = f"it is the camera's of boxes in space (ddd), and the task is {task}"
    if task != "exdet":
        found["aggregate"] = f"it is for extreme points (exdet), and the task is {task}"
    if not spec.decode:
        found["topk"] = "nothing decodes its outputs"
    if not spec.preprocess:
        found.update(dict.fromkeys(("resize", "mean", "std"), "its inputs are arrays that are normalised already"))
    return found


def graph_spec(spec: ModelSpec) -> Mapping[str, Any]:
    """Return the decode specification of a model, or where nothing decodes what says which outputs its graph has."""
    inputs, heads = [tensor.name for tensor in spec.inputs], [tensor.name for tensor in spec.outputs]
    return spec.decode or {"kind": TASKS[0].kind, "form": "heads", "inputs": inputs, "heads": heads}
