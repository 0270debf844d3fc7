"""The data sets that artifacts are evaluated on: where they are, how they are read, and which figures they have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convkit.errors import SettingError
from convkit.evaluation._annotations import Annotations, read_annotations
from convkit.evaluation._coco import coco_figures
from convkit.evaluation._coco_schema import read_fields
from convkit.evaluation._key_points import complete_points
from convkit.evaluation._voc import FOLDERS, read_voc
from convkit.evaluation._voc_figures import voc_figures

__all__ = ["CocoFiles", "DataSet", "VocFolder"]

Figures = dict[str, float]


class DataSet(ABC):
    """Images and annotations on a disk."""

    @property
    @abstractmethod
    def image_folder(self) -> Path:
        """The folder of the images."""

    @abstractmethod
    def read(self, classes: Sequence[str]) -> Annotations:
        """Return the annotations; ``classes`` are those of what is evaluated.

        Raises:
            SettingError: they are no such annotations, or figures of them would be wrong or say nothing.
            EnvironmentProblem: a package is missing.
        """

    def fields(self, names: Sequence[str]) -> Mapping[int, Mapping[str, Any]]:
        """Return by image id what the annotations say of an image besides, such as of its camera, by these names.

        The default is nothing.

        Raises:
            SettingError: the annotations cannot be read again.
        """
        del names
        return {}

    @abstractmethod
    def complete_points(self, data: Annotations, joints: Sequence[str]) -> tuple[tuple[float, ...], list[str]]:
        """Give the annotations their key points; return the constant of each joint, and notes.

        Raises:
            SettingError: there are none, or they do not fit the joints.
        """

    @abstractmethod
    def figures(
        self, data: Annotations, table: np.ndarray, ids: Sequence[int], sigmas: Sequence[float]
    ) -> tuple[Figures, dict[str, Figures]]:
        """Return the figures of results on images, and those of each class.

        ``table`` is float64 [N, 1 + columns]: image id, then the columns of a `Scheme` with category ids as classes.
        """


@dataclass(frozen=True)
class CocoFiles(DataSet):
    """A file of annotations in COCO's format, and the folder of its images."""

    annotations: Path
    images: Path

    @property
    def image_folder(self) -> Path:
        """The folder of the images."""
        return self.images

    def read(self, classes: Sequence[str]) -> Annotations:
        """Return the annotations, whatever the classes are."""
        del classes
        return read_annotations(self.annotations)

    def fields(self, names: Sequence[str]) -> Mapping[int, Mapping[str, Any]]:
        """Return fields of the entries of images."""
        try:
            return read_fields(self.annotations, names) if names else {}
        except (OSError, ValueError, KeyError) as error:
            raise SettingError(f"{self.annotations} cannot be read again: {error}.", hint="Check --coco.") from error

    def complete_points(self, data: Annotations, joints: Sequence[str]) -> tuple[tuple[float, ...], list[str]]:
        """Give the annotations their key points, which the file has."""
        return complete_points(data, self.annotations, joints)

    def figures(
        self, data: Annotations, table: np.ndarray, ids: Sequence[int], sigmas: Sequence[float]
    ) -> tuple[Figures, dict[str, Figures]]:
        """Return COCO's figures, of boxes or of key points and boxes."""
        names = {entry["id"]: str(entry["name"]) for entry in data.truth.dataset["categories"]}
        return coco_figures(data.truth, table, ids, names, sigmas)


@dataclass(frozen=True)
class VocFolder(DataSet):
    """A folder of Pascal VOC, such as ``VOCdevkit/VOC2007``, and one of its splits; None stands for all images."""

    folder: Path
    split: str | None = None

    @property
    def image_folder(self) -> Path:
        """The folder of the images."""
        return self.folder / FOLDERS[1]

    def read(self, classes: Sequence[str]) -> Annotations:
        """Return the annotations with the classes among their categories."""
        return read_voc(self.folder, self.split, classes)

    def complete_points(self, data: Annotations, joints: Sequence[str]) -> tuple[tuple[float, ...], list[str]]:
        """Refuse: the annotations have boxes only."""
        raise SettingError("Pascal VOC annotates no key points.", hint="Evaluate poses on COCO annotations, --coco.")

    def figures(
        self, data: Annotations, table: np.ndarray, ids: Sequence[int], sigmas: Sequence[float]
    ) -> tuple[Figures, dict[str, Figures]]:
        """Return Pascal VOC's figures of boxes."""
        del sigmas
        document = data.truth.dataset
        names = {entry["id"]: str(entry["name"]) for entry in document["categories"]}
        return voc_figures(document["annotations"], table, ids, names)
