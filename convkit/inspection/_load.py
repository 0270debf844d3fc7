"""Reading ONNX files of any origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convkit.artifact import Artifact
from convkit.errors import ArtifactError

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message  # type: ignore[import-untyped]

__all__ = ["GraphFile", "load_model", "open_graph"]


@dataclass(frozen=True)
class GraphFile:
    """A graph with the file that it was read from, and the artifact that the file belongs to, if any."""

    file: Path
    model: onnx.ModelProto
    artifact: Artifact | None = None

    @property
    def label(self) -> str:
        """The path as the user gave it: the artifact directory or the file."""
        return str(self.artifact.path if self.artifact else self.file)


def open_graph(path: Path) -> GraphFile:
    """Open an artifact directory, comparing its files with their hashes, or a bare ONNX file.

    Raises:
        ArtifactError: it does not exist, or is neither of the two.
        IntegrityError: a file of the artifact is not the one that was proved.
    """
    if not path.is_dir():
        return GraphFile(path, load_model(path))
    artifact = Artifact.open(path)
    artifact.verify()
    return GraphFile(artifact.model, load_model(artifact.model), artifact)


def load_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file together with its external data.

    Raises:
        ArtifactError: the file does not exist, or contains no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ArtifactError(
            f"There is no file or artifact {path}.", hint="Give an artifact directory or an .onnx file."
        )
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ArtifactError(f"{path} is not a whole ONNX file.", hint=_guess(path)) from error
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check its permissions."
        ) from error
    if not model.graph.output or not model.opset_import:
        raise ArtifactError(f"{path} contains no ONNX graph.", hint=_guess(path))
    if not _has_texts(model):
        raise ArtifactError(f"{path} contains names that are no UTF-8.", hint="Export the model again.")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactError(
            f"The external weights of {path} cannot be read: {str(error).splitlines()[0]}",
            hint="Keep the data file beside the .onnx file, under the name that it was written with.",
        ) from error
    return model


def _has_texts(message: Message) -> bool:
    """Return whether every text of a message is one: protobuf gives bytes for a text that is not UTF-8."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if not all(isinstance(text, str) for text in (value if field.is_repeated else [value])):
                return False
        elif field.message_type is not None and not all(map(_has_texts, value if field.is_repeated else [value])):
            return False
    return True


def _guess(path: Path) -> str:
    """Return a hint of what a file that is not an ONNX model is, judged by its first bytes."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        return "The file is empty; was the download or the disk cut off?"
    if head[:4] == b"ftrt":
        return "It is a TensorRT engine; give the artifact directory or the .onnx file that it was built from."
    if head[:2] in (b"PK", b"\x80\x02"):
        return "It looks like a PyTorch checkpoint; `convkit convert` makes an artifact of one."
    if head.lstrip()[:1] == b"<":
        return "It is a web page; download the file itself."
    if head.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer; `git lfs pull` fetches the file itself."
    return "It may be cut off; compare its size with the original and copy it again."
