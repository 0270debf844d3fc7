"""The specification of a model: its inputs and outputs, how they are processed, and the tolerances of its proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from convkit.errors import AdapterError, suggest
from convkit.model._dims import Dim
from convkit.model._expect import Expect
from convkit.model._extents import Extent, extent_names

__all__ = ["BATCH", "ModelSpec", "TensorSpec", "Tolerance"]

BATCH = "batch"
"""The dimension along which independent inputs are put together."""
COMPARISONS = ("values", "results")
DTYPES = (
    "bfloat16", "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64",
)  # fmt: skip


@dataclass(frozen=True)
class Tolerance:
    """How far an output may lie from the float64 reference, and why.

    ``factor`` multiplies PyTorch's own error against float64 in the same precision; ``atol`` is added, in units of the
    output.
    """

    factor: float = 3.0
    atol: float = 0.0
    reason: str = "float32 kernels that sum in another order"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the graph: name, shape of numbers and extents over named dimensions, NumPy dtype.

    ``compare`` says how two values of an output are compared: ``"values"`` element by element, ``"results"`` only after
    decoding, by the results' own matching (rows of a top-K, which may change places).

    Raises:
        AdapterError: an extent cannot be read, or ``dtype`` or ``compare`` is unknown.
    """

    name: str
    shape: tuple[Extent, ...]
    dtype: str = "float32"
    compare: str = "values"
    tolerance: Tolerance = Tolerance()

    def __post_init__(self) -> None:
        for extent in self.shape:
            if not isinstance(extent, str) and (type(extent) is not int or extent < 0):
                raise AdapterError(
                    f"The tensor {self.name!r} has the extent {extent!r}.",
                    hint="Give a whole number, or a named dimension such as 'batch' where the size varies.",
                )
            extent_names(extent)
        if self.dtype not in DTYPES:
            raise AdapterError(
                f"The tensor {self.name!r} has the dtype {self.dtype!r}.",
                hint=f"{suggest(str(self.dtype), DTYPES)} Use one of {', '.join(DTYPES)}.",
            )
        if self.compare not in COMPARISONS:
            raise AdapterError(
                f"The tensor {self.name!r} is compared by {self.compare!r}.",
                hint=f"{suggest(self.compare, COMPARISONS)} Use one of {', '.join(COMPARISONS)}.",
            )

    @property
    def host_dtype(self) -> str:
        """The dtype of arrays on the host: NumPy has no bfloat16, whose numbers are in float32 there."""
        return "float32" if self.dtype == "bfloat16" else self.dtype

    @property
    def batched(self) -> bool:
        """Whether axis 0 is the batch, so that the inputs of several items are stacked along it."""
        return bool(self.shape) and self.shape[0] == BATCH

    @property
    def item_shape(self) -> tuple[Extent, ...]:
        """The shape that one item contributes: without the batch axis where there is one."""
        return self.shape[1:] if self.batched else self.shape


@dataclass(frozen=True)
class ModelSpec:
    """Everything about the loaded model that outlives the checkpoint.

    ``dims`` are those of the request, narrowed where the model must. ``preprocess`` and ``decode`` are JSON objects
    whose ``kind`` tells a plugin's ``convkit_preprocess`` or ``convkit_decode`` hook that they are its own. An empty
    ``preprocess`` means that raw inputs are the input arrays by name; an empty ``decode`` that there are no results
    beyond the outputs. ``info`` is for people: `convert` and the report say what its entry ``notes``, a list
    of sentences, contains. ``expect`` overrides how often the patch or rewrite of that name must
    fire for this model.

    Raises:
        AdapterError: two tensors of one name, none at all, or a shape over an unknown dimension.
    """

    variant: str
    dims: tuple[Dim, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    decode: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    expect: Mapping[str, Expect] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [dim.name for dim in self.dims]
        for kind, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [tensor.name for tensor in tensors]
            if not names or len(set(names)) < len(names):
                raise AdapterError(
                    f"The model declares the {kind} {', '.join(names) or 'none'}.",
                    hint="Declare at least one, each with a name of its own.",
                )
            for tensor in tensors:
                unknown = [name for extent in tensor.shape for name in extent_names(extent) if name not in known]
                if unknown:
                    raise AdapterError(
                        f"The shape of {tensor.name!r} names an unknown dimension {unknown[0]!r}.",
                        hint=f"{suggest(unknown[0], known)} Its dimensions are {', '.join(known) or 'none'}.",
                    )
        if not self.decode and any(tensor.compare == "results" for tensor in self.outputs):
            raise AdapterError(
                "An output is to be compared by results, but the model has no decode.",
                hint='Give ModelSpec.decode, or compare it by "values".',
            )

    def with_edges(self, dtype: str) -> ModelSpec:
        """Return the specification with inputs and outputs of ``dtype`` in place of float32.

        Outputs that are compared by results stay float32: numbers of rows, such as coordinates, need its digits.
        """

        def typed(tensor: TensorSpec) -> TensorSpec:
            change = tensor.dtype == "float32" and tensor.compare == "values"
            return replace(tensor, dtype=dtype) if change else tensor

        return replace(self, inputs=tuple(map(typed, self.inputs)), outputs=tuple(map(typed, self.outputs)))

    def with_types(self, types: Mapping[str, str]) -> ModelSpec:
        """Return the specification with other dtypes of the inputs and outputs that ``types`` names."""

        def typed(tensor: TensorSpec) -> TensorSpec:
            return replace(tensor, dtype=types.get(tensor.name, tensor.dtype))

        return replace(self, inputs=tuple(map(typed, self.inputs)), outputs=tuple(map(typed, self.outputs)))

    @property
    def batch(self) -> Dim:
        """The batch dimension, fixed at 1 for a model without one."""
        return next((dim for dim in self.dims if dim.name == BATCH), Dim.fixed(BATCH, 1))
