"""The inputs of a proof: raw inputs, made into tensors at every size that is proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit.errors import AdapterError, InputError, IntegrityError, named
from convkit.model import BATCH, ModelSpec, json_fault
from convkit.plugins import manager
from convkit.processing import Prepared, Preprocess, collate, find_preprocess, item_sizes, prepare
from convkit.proof._cases import Case, ItemSizes

__all__ = ["Samples", "own_sizes"]


class Samples:
    """Prepared inputs by item sizes; a batch larger than their number repeats them in turn."""

    def __init__(self, spec: ModelSpec, prepared: Mapping[ItemSizes, Sequence[Prepared]]) -> None:
        self.spec = spec
        self.prepared = {sizes: list(items) for sizes, items in prepared.items()}

    @classmethod
    def prepare(cls, spec: ModelSpec, raws: Sequence[Any], all_sizes: Sequence[ItemSizes]) -> Samples:
        """Preprocess every raw input for all sizes, by the adapter's own preprocess.

        Raises:
            AdapterError: what it returns is not what the model takes, or is of another size.
        """
        prepared = {}
        for sizes in dict.fromkeys(all_sizes):
            preprocess = find_preprocess(spec.preprocess, dict(sizes))
            prepared[sizes] = [_of_size(spec, preprocess, raw, dict(sizes)) for raw in raws]
        return cls(spec, prepared)

    def feed(self, case: Case) -> dict[str, np.ndarray]:
        """Return the input arrays of a case, batch on axis 0."""
        return collate(self.spec.inputs, self.items(case))

    def items(self, case: Case) -> list[Prepared]:
        """Return the prepared inputs of a case, one for each row of its batch.

        Raises:
            IntegrityError: there are none of its sizes, as in golden samples that somebody changed.
        """
        items = self.prepared.get(case.item_sizes)
        if not items:
            shown = ", ".join(f"{name}={value}" for name, value in case.item_sizes) or "the fixed sizes"
            raise IntegrityError(f"There is no sample of {shown}.", hint="Restore the artifact or convert again.")
        return [items[index % len(items)] for index in range(case.batch)]

    def metas(self, case: Case) -> list[Mapping[str, Any]]:
        """Return what decoding needs of each row of a case's batch."""
        return [item.meta for item in self.items(case)]

    def first(self, count: int) -> Samples:
        """Return the samples with only ``count`` inputs of each size."""
        return Samples(self.spec, {sizes: items[:count] for sizes, items in self.prepared.items()})


def own_sizes(spec: ModelSpec, raws: Sequence[Any]) -> list[ItemSizes | None]:
    """Return the sizes in which ``run`` gives each raw input to the model; None for an input that it refuses.

    They are the optimal ones, unless the preprocess keeps the size of its input.
    """
    preprocess = find_preprocess(spec.preprocess)
    found: list[ItemSizes | None] = []
    for raw in raws:
        try:
            tensors = prepare(spec, preprocess, raw).tensors
            sizes = item_sizes(spec, preprocess, {name: value.shape for name, value in tensors.items()})
        except InputError:
            found.append(None)
            continue
        found.append(tuple((dim.name, sizes.get(dim.name, dim.opt)) for dim in spec.dims if dim.name != BATCH))
    return found


def _of_size(spec: ModelSpec, preprocess: Preprocess, raw: Any, wanted: Mapping[str, int]) -> Prepared:
    prepared = prepare(spec, preprocess, raw)
    who = named(f"the preprocess {type(preprocess).__name__}", manager().origin(preprocess))
    if fault := json_fault(prepared.meta, "meta"):
        raise AdapterError(f"{who} returned a Prepared whose {fault[0]}.", hint=fault[1])
    try:
        found = item_sizes(spec, preprocess, {name: value.shape for name, value in prepared.tensors.items()})
    except InputError as error:
        if not spec.preprocess:
            raise
        asked = ", ".join(f"{name} {size}" for name, size in wanted.items())
        shapes = ", ".join(f"{name!r} of shape {value.shape}" for name, value in prepared.tensors.items())
        layout = ", ".join(f"{tensor.name!r} is {' x '.join(map(str, tensor.item_shape))}" for tensor in spec.inputs)
        raise AdapterError(
            f"{who} returned {shapes} where {asked} was asked for.",
            hint=f"One item of {layout}. {_OBEY.format(', '.join(wanted) or 'each dimension')}",
        ) from error
    for name, size in found.items():
        if size != wanted[name]:
            raise AdapterError(
                f"{who} returned an input with {name} {size} where {wanted[name]} was asked for.",
                hint=_OBEY.format(name),
            )
    return prepared


_OBEY = (
    "Name {} in ModelSpec.preprocess and obey it: the proof sets it to every size it tries. A preprocess that chooses"
    " the size of each input itself names None there, which means its own choice wherever no size is set."
)
