"""What a proof runs: anything that turns input arrays into output arrays, PyTorch modules among them."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit._dense import dense
from convkit.errors import AdapterError, blamed_on, named
from convkit.processing import take_items

if TYPE_CHECKING:
    import torch

    from convkit.model import ModelSpec, SourceModel

__all__ = ["Compute", "TorchCompute", "by_items", "feed_key", "patched_compute", "run_parallel"]

Compute = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Anything that turns a feed (input arrays by name, batch on axis 0) into outputs by name."""


def feed_key(feed: Mapping[str, np.ndarray]) -> bytes:
    """Return a digest of the names, shapes and values of a feed."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(feed):
        tensor = feed[name]
        digest.update(f"{name}{tensor.dtype}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.digest()


def by_items(spec: ModelSpec, compute: Compute, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run ``compute`` on each item of a batch alone; return the outputs put together."""
    first = next((tensor for tensor in spec.inputs if tensor.batched), None)
    if first is None:
        return dict(compute(feed))
    rows = [compute(take_items(spec.inputs, feed, slice(index, index + 1))) for index in range(len(feed[first.name]))]
    batched = {tensor.name for tensor in spec.outputs if tensor.batched}
    return {name: np.concatenate([row[name] for row in rows]) if name in batched else rows[0][name] for name in rows[0]}


class TorchCompute:
    """Runs the untouched PyTorch model in ``dtype``, one item at a time, and remembers what each item gave.

    Single items make every batch that an engine runs a comparison of batch against single as well, and an item that
    several shapes share is computed once. ``remember`` False keeps nothing, for long streams. ``plugin`` is the one
    whose adapter made the model, for errors.

    Threads run copies of the module that share its parameters and buffers: research code keeps tensors on ``self``.
    """

    def __init__(
        self, source: SourceModel, module: torch.nn.Module, dtype: str, *, remember: bool = True, plugin: str = ""
    ) -> None:
        import torch

        self.remember, self.plugin = remember, plugin
        self.source, self.dtype = source, getattr(torch, dtype)
        self._idle = [module]
        self._pattern: torch.nn.Module | None = None
        self._known: dict[bytes, dict[str, np.ndarray]] = {}

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs of a batch."""
        return by_items(self.source.spec, self._item, feed)

    def pending(self, feeds: Iterable[Mapping[str, np.ndarray]], *, anew: bool = False) -> list[PendingItem]:
        """Return what is not known yet of these batches, item by item; with ``anew`` all of it."""
        items: dict[bytes, Mapping[str, np.ndarray]] = {}

        def note(item: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            items.setdefault(feed_key(item), item)
            return {}

        for feed in feeds:
            by_items(self.source.spec, note, feed)
        if len(items) > 1 and self._idle:
            with blamed_on("copying the module", self.plugin):
                self._pattern = _shared_copy(self._idle[0])  # while nothing runs
        return [PendingItem(self, key, item) for key, item in items.items() if anew or key not in self._known]

    def run(self, item: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs of one item, computed anew."""
        import torch

        from convkit._float64 import in_strips

        with (
            self._own_module() as module,
            torch.no_grad(),
            in_strips() if self.dtype == torch.float64 else nullcontext(),
        ):
            tensors = {name: torch.from_numpy(dense(value)) for name, value in item.items()}
            cast = {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in tensors.items()}
            with blamed_on(f"the adapter's reference in {self._precision}", self.plugin, self._advice):
                outputs = self.source.reference(module, cast)
        return self._checked(outputs)

    def learn(self, key: bytes, outputs: Mapping[str, np.ndarray]) -> None:
        """Remember what the item of a key gave."""
        self._known[key] = dict(outputs)

    def knows(self, key: bytes) -> bool:
        """Return whether the outputs of a key are remembered."""
        return key in self._known

    def release(self) -> None:
        """Drop the module; a copy of the source's is made should an item come that is not known."""
        self._idle, self._pattern = [], None

    def _item(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not self.remember:
            return self.run(feed)
        key = feed_key(feed)
        if key not in self._known:
            self.learn(key, self.run(feed))
        return self._known[key]

    @contextmanager
    def _own_module(self) -> Iterator[torch.nn.Module]:
        """Give a thread a module that no other one runs meanwhile."""
        try:
            module = self._idle.pop()
        except IndexError:
            pattern = self._pattern
            module = _shared_copy(pattern) if pattern else copy.deepcopy(self.source.module).to(self.dtype)
        try:
            yield module
        finally:
            self._idle.append(module)

    @property
    def _precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def _advice(self) -> str:
        """What to heed where the reference fails in float64 that ran in float32."""
        if self._precision == "float32":
            return ""
        return (
            "It runs in float64 too: a tensor that it or the network makes must take its dtype from the inputs"
            " (x.new_zeros(...), torch.zeros(..., dtype=x.dtype)), and nothing may be cast to float32."
        )

    def _checked(self, outputs: Any) -> dict[str, np.ndarray]:
        import torch

        who = named("the adapter's reference", self.plugin)
        hint = "SourceModel.reference must return a mapping with exactly the names of ModelSpec.outputs, each a tensor."
        declared = [tensor.name for tensor in self.source.spec.outputs]
        if not isinstance(outputs, Mapping):
            raise AdapterError(
                f"{who} returned a {type(outputs).__name__}; its outputs are {', '.join(declared)}.", hint=hint
            )
        missing = [name for name in declared if name not in outputs]
        extra = [str(name) for name in outputs if name not in declared]
        if missing or extra:
            lack = f" lacks {', '.join(missing)}" if missing else ""
            more = f" returned {', '.join(extra)}, which ModelSpec.outputs does not declare" if extra else ""
            raise AdapterError(f"{who}{' and'.join(filter(None, (lack, more)))}.", hint=hint)
        for name in declared:
            if not isinstance(outputs[name], torch.Tensor):
                raise AdapterError(f"{who} returned a {type(outputs[name]).__name__} for {name!r}.", hint=hint)
        return {name: outputs[name].detach().numpy() for name in declared}


def _shared_copy(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a module with the same parameters and buffers."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


@dataclass(frozen=True)
class PendingItem:
    """An item that a `TorchCompute` does not know yet."""

    compute: TorchCompute
    key: bytes
    item: Mapping[str, np.ndarray]

    def __call__(self) -> None:
        """Compute it."""
        self.learn(self.run())

    def run(self) -> dict[str, np.ndarray]:
        """Return its outputs."""
        return self.compute.run(self.item)

    def learn(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Let the compute remember its outputs."""
        self.compute.learn(self.key, outputs)

    @property
    def known(self) -> bool:
        """Whether the compute remembers them already."""
        return self.compute.knows(self.key)


def run_parallel(calls: Sequence[Callable[[], object]], done: Callable[[int], object] = int) -> None:
    """Run calls side by side, one for each core, and divide PyTorch's threads; ``done`` gets how many are over.

    One thread for each item is faster than all threads for one item: nobody waits for anybody. Where there are fewer
    items than threads, each has several.
    """
    import torch

    threads = torch.get_num_threads()
    own = max(1, threads // max(1, len(calls)))
    pool = ThreadPoolExecutor(threads, "convkit-reference", initializer=torch.set_num_threads, initargs=(own,))
    try:
        for count, future in enumerate(as_completed([pool.submit(call) for call in calls]), start=1):
            future.result()
            done(count)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def patched_compute(source: SourceModel, plugin: str = "") -> Compute:
    """Return what runs the module under the export patches, which returns its outputs as a tuple.

    ``plugin`` is the one whose adapter made the model, for errors.

    Raises:
        AdapterError: the module takes another number of inputs than declared; on a call, another number of outputs.
    """
    import torch

    names = [tensor.name for tensor in source.spec.inputs]
    who = named("the patched model", plugin)
    try:
        inspect.signature(source.module.forward).bind(*names)
    except TypeError as error:
        raise AdapterError(
            f"{who} does not take the {len(names)} declared inputs ({', '.join(names)}): {error}.",
            hint="Patch the model's forward so that it takes the inputs in the order of ModelSpec.inputs.",
        ) from error

    def compute(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            inputs = (torch.from_numpy(dense(feed[tensor.name])) for tensor in source.spec.inputs)
            with blamed_on("the patched model", plugin):
                result: Any = source.module(*inputs)
        values = (result,) if isinstance(result, torch.Tensor) else result
        declared = source.spec.outputs
        good = isinstance(values, tuple | list) and all(isinstance(value, torch.Tensor) for value in values)
        if not good or len(values) != len(declared):
            what = f"{len(values)} values" if good else _described(result)
            raise AdapterError(
                f"{who} returns {what}; the adapter declares {len(declared)} outputs"
                f" ({', '.join(tensor.name for tensor in declared)}).",
                hint="Patch the model's forward so that it returns the outputs as a tuple of tensors, in their order.",
            )
        return {tensor.name: value.numpy() for tensor, value in zip(declared, values, strict=True)}

    return compute


def _described(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"a {type(result).__name__} of {', '.join(map(str, result))}"
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {', '.join(type(value).__name__ for value in result)}"
    return "None" if result is None else f"a {type(result).__name__}"
