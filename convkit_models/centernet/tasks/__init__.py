"""The tasks of CenterNet, one a folder; which of them a checkpoint was trained for."""

from convkit_models.centernet.tasks._shared import PREPROCESS
from convkit_models.centernet.tasks._tasks import TASKS, Room, Task, choose_task, graph_spec, room_of, unused_options

__all__ = ["PREPROCESS", "TASKS", "Room", "Task", "choose_task", "graph_spec", "room_of", "unused_options"]
