"""What the JSON files of an artifact contain: each as a type, against which a file is checked before anything uses it.

Fields that a type does not name may be there and stay as they are, but for the parts of a specification.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

__all__ = [
    "EngineDocument",
    "EngineVerdict",
    "ExcerptDocument",
    "Manifest",
    "RecordDocument",
    "Rung",
    "VerdictDocument",
]

Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Text = Annotated[str, Meta(max_length=100_000)]
Figure = float | None
"""None stands for what is not finite."""


class File(Struct):
    """A file that was hashed."""

    sha256: Hash
    bytes: Count


class Adapter(Struct):
    """The adapter, and the plugin that it is of."""

    name: Text
    plugin: Text
    distribution: Text
    version: Text


class Weights(Struct):
    """The checkpoint: one file with its hash, or a folder with those of its files."""

    file: Text
    bytes: Count
    sha256: Hash | UnsetType = UNSET
    files: dict[Text, Hash] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if (self.sha256 is UNSET) == (self.files is UNSET):
            raise ValueError("needs sha256, or the files of a folder")


class Dim(Struct, forbid_unknown_fields=True):
    """A named dimension."""

    name: Text
    min: Size
    opt: Size
    max: Size
    multiple_of: Size


class Tolerance(Struct, forbid_unknown_fields=True):
    """How much a tensor may differ."""

    factor: float
    atol: float
    reason: Text


class Tensor(Struct, forbid_unknown_fields=True):
    """An input or output of the graph."""

    name: Text
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)] | Text], Meta(max_length=64)]
    dtype: Text
    compare: Text
    tolerance: Tolerance


class Model(Struct):
    """What `spec_to_json` writes."""

    variant: Text
    dims: list[Dim]
    inputs: list[Tensor]
    outputs: list[Tensor]
    preprocess: dict[Text, Any]
    decode: dict[Text, Any]
    classes: list[Text]
    info: dict[Text, Any]


class Graph(Struct):
    """What the graph was made for."""

    format: Text
    opset: Size
    form: Text
    precision: Text
    options: dict[Text, Any]
    ir_version: Size


class Setting(Struct):
    """A setting of the conversion, and who gave it."""

    name: Text
    value: Any
    origin: Text


class Patch(Struct):
    """An export patch, and where it fired."""

    name: Text
    reason: Text
    expect: Text
    sites: list[Text]
    fired: Count


class Rewrite(Struct):
    """A graph rewrite, and what it did."""

    plugin: Text
    name: Text
    reason: Text
    expect: Text
    fired: Count
    removed: list[Text]
    added: list[Text]
    changed: list[Text]


class Machine(Struct):
    """The backend that the proof ran on, and where."""

    backend: Text
    device: Text
    version: Text = ""
    gpu: Text = ""
    compute_capability: Text = ""


class Environment(Struct):
    """Versions, and the machine."""

    python: Text
    platform: Text
    packages: dict[Text, Text]
    engine: Machine


class Outcome(Struct):
    """The verdict in one sentence."""

    passed: bool
    headline: Text


class Manifest(Struct):
    """``manifest.json``."""

    schema_version: int
    convkit: Text
    adapter: Adapter
    weights: Weights
    model: Model
    graph: Graph
    settings: list[Setting]
    patches: dict[Text, list[Patch]]
    translations: dict[Text, Text]
    rewrites: list[Rewrite]
    environment: Environment
    verdict: Outcome
    files: dict[Text, File]
    seal: Hash
    precision: dict[Text, Any] | UnsetType = UNSET


class FailedCheck(Struct):
    """A check that did not pass, in the particulars of a rung."""

    output: Text
    kind: Text
    case: Text
    note: Text


class Rung(Struct):
    """A rung of a ladder."""

    status: Literal["passed", "failed", "pending", "not replayed", "not applicable"]
    summary: Text
    checks: list[FailedCheck] = field(default_factory=list)
    baselines: dict[Text, dict[Text, Figure]] = field(default_factory=dict)


class Check(Struct, forbid_unknown_fields=True):
    """A check of a verdict."""

    kind: Text
    case: Text
    output: Text
    passed: bool
    figures: dict[Text, Figure]
    limits: dict[Text, Figure]
    note: Text = ""
    comparable: bool = True


class Stage(Struct, forbid_unknown_fields=True):
    """A stage of the ledger."""

    name: Text
    output: Text
    against_previous: Figure
    against_float64: Figure
    limit: Figure
    passed: bool
    note: Text = ""


class VerdictDocument(Struct):
    """``proof/verdict.json``."""

    passed: bool
    headline: Text
    backend: Text
    device: Text
    reference: Text
    inputs: Text
    checks: list[Check]
    ledger: list[Stage]
    baselines: dict[Text, dict[Text, Figure]]
    notes: list[Text]
    ladder: dict[Text, Rung]


class RecordDocument(Struct):
    """``proof/backends/*.json``."""

    backend: Text
    device: Text
    machine: dict[Text, Text]
    ladder: dict[Text, Rung]
    artifact: Hash
    seal: Hash


class ExcerptNode(Struct):
    """A node of a graph at a place that a rewrite changed."""

    name: Text
    operator: Text
    module: Text
    weights: list[Text]
    kind: Literal["", "removed", "added", "changed"]


class ExcerptSide(Struct):
    """Nodes, and edges as indices of two of them with a tensor."""

    nodes: Annotated[list[ExcerptNode], Meta(max_length=1000)]
    edges: Annotated[list[tuple[Count, Count, Text]], Meta(max_length=10_000)]


class ExcerptDocument(Struct):
    """A place in ``proof/rewrites.json``, before and after a rewrite."""

    rewrite: Text
    before: ExcerptSide
    after: ExcerptSide
    places: Count
    left_out: Count


class BuiltFrom(Struct):
    """The graph that an engine was built from."""

    model: Hash = field(name="model.onnx")


class EngineDocument(Struct):
    """``engines/NAME/engine.json``; a backend may write more into it."""

    backend: Text
    version: Text
    targets: list[Text]
    precision: Text
    options: dict[Text, Any]
    artifact: BuiltFrom
    plan: Text
    files: dict[Text, File]
    command: Text = ""
    plugins: list[Text] = field(default_factory=list)
    settings: dict[Text, Any] = field(default_factory=dict)
    io: dict[Text, Literal["float16"]] = field(default_factory=dict)


class EngineVerdict(Struct):
    """``engines/NAME/verdict.json``."""

    ladder: dict[Text, Rung]
