"""Images through artifacts on the machines of a Ray cluster, by Ray Data."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import convkit.errors
from convkit.errors import ConversionError, ConvkitError, EnvironmentProblem
from convkit.evaluation._engines import Engine, engines_of
from convkit.evaluation._flow import Image, Loaded, check_known, prepared, reading, results_of, wanted
from convkit.evaluation._options import EvaluationOptions
from convkit.evaluation._ray_cluster import connected, reason
from convkit.evaluation._scheme import Scheme
from convkit.evaluation._store import Store
from convkit.progress import Progress

__all__ = ["run_on_ray"]

SAME = (
    "Artifacts, images and weights have to be at the same paths on all machines of the cluster, with the same packages."
)


class _Worker:
    """Loads the artifacts once, and runs batches of images.

    ``facts`` are those of the engines where the evaluation was started: other versions would give other results. What
    goes wrong is returned as a row, because Ray starts a worker anew that fails.
    """

    def __init__(
        self,
        artifacts: Mapping[str, Path],
        options: EvaluationOptions,
        facts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        from convkit.runtime import load

        self._failure: ConvkitError | None = None
        try:
            predictors = {name: load(folder, **options.loading) for name, folder in artifacts.items()}
            self._engines = engines_of(predictors, options.weights)
            _check_same(facts, {name: engine.facts for name, engine in self._engines.items()})
            self._read = reading(next(iter(predictors.values())).reader)
        except ConvkitError as error:
            self._failure = error

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """Return a row for each image and engine, or a single one with the error that ended the batch."""
        found: dict[str, list[Any]] = {"id": [], "engine": [], "stamp": [], "document": [], "rows": []}

        def add(image: int, engine: str, stamp: str, document: Mapping[str, Any], rows: bytes) -> None:
            for values, value in zip(found.values(), (image, engine, stamp, json.dumps(document), rows), strict=True):
                values.append(value)

        columns = [batch[name].tolist() for name in ("id", "file", "height", "width", "fields", "engines")]
        try:
            if self._failure:
                raise self._failure
            ready = []
            for number, file, height, width, fields, names in zip(*columns, strict=True):
                image = Image(number, Path(file), (height, width) if height else None, json.loads(fields))
                loaded = Loaded(image, image.stamp, dict.fromkeys(names.split("\n")))
                ready.append(prepared(loaded, self._engines, self._read))
            for name, engine in self._engines.items():
                for loaded, result in results_of(name, engine, ready):
                    scheme = Scheme.of(result)
                    data = np.ascontiguousarray(scheme.rows(result), "<f8").tobytes()
                    add(loaded.image.id, name, loaded.stamp, scheme.to_json(), data)
        except ConvkitError as error:
            message = f"On {socket.gethostname()}: {error.message}"
            add(
                -1,
                "",
                "",
                {"error": type(error).__name__, "message": message, "hint": f"{error.hint} {SAME}".strip()},
                b"",
            )
        return found


def _check_same(here: Mapping[str, Mapping[str, Any]], there: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a worker has the engines of the machine where the evaluation was started.

    Raises:
        EnvironmentProblem: it has others.
    """
    for name, facts in here.items():
        found, asked = _flat(there[name]), _flat(facts)
        told = [
            f"{key} {found.get(key, 'none')[:40]} instead of {asked.get(key, 'none')[:40]}"
            for key in sorted(found.keys() | asked.keys())
            if found.get(key) != asked.get(key)
        ]
        if told:
            raise EnvironmentProblem(f"{name} is another one than where the evaluation was started: {'; '.join(told)}.")


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as texts; those of a mapping in them by two names."""
    parts = {name: value if isinstance(value, Mapping) else {"": value} for name, value in facts.items()}
    return {f"{name} {key}".strip(): str(value) for name, part in parts.items() for key, value in part.items()}


def run_on_ray(
    artifacts: Mapping[str, Path],
    options: EvaluationOptions,
    engines: Mapping[str, Engine],
    images: Sequence[Image],
    store: Store,
    *,
    batch: int,
    progress: Progress,
    check: Callable[[str, Scheme], None],
) -> tuple[float, int]:
    """Do what `run_images` does with workers of a Ray cluster: one for each core, on GPUs one for each GPU.

    ``artifacts`` are the folders of artifacts by their names in the report. Results come in any order, and one that
    comes twice, because a worker was lost, is kept once. The seconds in engines are not known, 0.

    Raises:
        EnvironmentProblem: Ray is missing, there is no such cluster, or it gave up.
        ConversionError: an image has no result.
    """
    checked = check_known(engines, store, check)
    items: list[dict[str, Any]] = []
    kept = 0
    for image in images:
        loaded = wanted(image, engines, store)
        kept += len(engines) - len(loaded.items)
        if loaded.items:
            height, width = image.size or (0, 0)
            facts = {"id": image.id, "file": str(image.file.resolve()), "height": height, "width": width}
            fields = json.dumps(image.fields)
            items.append({**facts, "fields": fields, "engines": "\n".join(loaded.items)})
    missing = {(item["id"], name) for item in items for name in item["engines"].split("\n")}
    if not items:
        return 0.0, kept
    progress("starting Ray")
    with connected(str(options.ray)) as ray, store.writing():
        facts = {name: engine.facts for name, engine in engines.items()}
        for row in _rows(
            ray, items, batch, {"artifacts": dict(artifacts), "options": options.anywhere(), "facts": facts}
        ):
            document = json.loads(row["document"])
            if "error" in document:
                raise _again(document)
            number, name, scheme = int(row["id"]), str(row["engine"]), Scheme.from_json(document)
            if name not in checked:
                check(name, scheme)
                checked.add(name)
            if (store.scheme(engines[name].key) or scheme) != scheme:
                raise ConversionError(
                    "The results of this artifact are not all of one kind.", hint="This is a fault of its decode."
                )
            values = np.frombuffer(row["rows"], "<f8").reshape(-1, scheme.columns)
            store.put(engines[name].key, number, str(row["stamp"]), scheme, values)
            missing.discard((number, name))
            progress("running images", len(images) - len({each for each, _ in missing}), len(images))
    if missing:
        raise ConversionError(
            f"Ray returned no result for {len(missing)} of {len(items)} images.",
            hint="Run it again with --resume FILE.",
        )
    return 0.0, kept


def _rows(
    ray: Any, items: list[dict[str, Any]], batch: int, arguments: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of all batches as they come from workers with these arguments; an errored block ends it."""
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.max_errored_blocks, context.enable_progress_bars = 0, False
    gpu = str(arguments["options"].device or "").startswith("cuda")
    blocks = -(-len(items) // batch)
    workers = min(max(1, int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1))), blocks)
    data = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        _Worker,
        fn_constructor_kwargs=dict(arguments),
        batch_size=batch,
        compute=ActorPoolStrategy(size=workers),
        **({"num_gpus": 1} if gpu else {"num_cpus": 1}),
    )
    try:
        yield from data.iter_rows()
    except ray.exceptions.RayError as error:
        kept = " Results until then are in the --resume file." if arguments["options"].resume else ""
        raise EnvironmentProblem(f"Ray gave up: {reason(error)}", hint=f"{SAME}{kept}") from error


def _again(document: Mapping[str, str]) -> ConvkitError:
    """Return the error that a worker met."""
    kind = getattr(convkit.errors, document["error"], ConversionError)
    try:
        error: ConvkitError = kind(document["message"], hint=document["hint"])
    except TypeError:  # a class that takes more than that
        error = ConversionError(document["message"], hint=document["hint"])
    return error
