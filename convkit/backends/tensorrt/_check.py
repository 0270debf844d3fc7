"""``check_model``: an ONNX file through TensorRT's parser, the replay and the builder."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.backends._ladder import FAILED, NOT_REPLAYED, PASSED, PENDING, Ladder, Rung
from convkit.backends.tensorrt._audit import Audit, audit
from convkit.backends.tensorrt._child import Build, Outcome, Task, run_tasks
from convkit.backends.tensorrt._commands import plugins_note
from convkit.backends.tensorrt._flavour import Flavour, find_flavour
from convkit.backends.tensorrt._network import ParsedNetwork
from convkit.backends.tensorrt._remedies import remedy
from convkit.backends.tensorrt._shapes import GraphInput, ShapeRange, graph_inputs, parse_ranges
from convkit.backends.tensorrt._targets import find_targets
from convkit.errors import ConversionError, EnvironmentProblem, SettingError, suggest
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    import onnx

    from convkit.backends import TensorRTPlugin
    from convkit.backends.tensorrt._understand import Understanding

__all__ = ["check_model", "climb", "random_inputs", "read_inputs"]

SHAPE_ITEMS = 64
"""Integers that an input may have at most to be taken for a shape, whose contents an engine has to know."""


def check_model(
    file: Path,
    model: onnx.ModelProto,
    *,
    flavour: str = "tensorrt-rtx",
    targets: Sequence[str] = (),
    shapes: Sequence[str] = (),
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Ladder:
    """Return how far an ONNX file gets: accepted by the parser, understood as ONNX means it, built.

    ``model`` is what ``file`` holds. ``targets`` are compute capabilities (``sm86``; default: the portable set of the
    flavour), ``shapes`` ranges (``batch=1:4:8``), ``inputs`` the values to replay, else random ones from ``seed`` in
    the lowest, best and highest shapes.

    Raises:
        SettingError: a shape, target or input does not fit the model.
        ConversionError: the flavour makes no engines for a target.
        EnvironmentProblem: the flavour is not installed.
    """
    kind = find_flavour(flavour)
    chosen, _ = find_targets(kind, targets)
    kind.require()
    given = graph_inputs(model)
    if inputs is not None:
        _check_inputs(given, inputs)
        shapes = [*shapes, *_shapes_of(given, inputs, shapes)]
    ranges = parse_ranges(given, shapes)
    values = _shape_values(given, inputs or {})
    build = Build(chosen, {item.name: ranges[item.name] for item in given if item.dynamic}, values)
    feeds = [dict(inputs)] if inputs is not None else _random_feeds(given, ranges, seed)
    ladder, _ = climb(kind, file, model, build, feeds, progress=progress)
    return ladder


def climb(
    kind: Flavour,
    file: Path,
    model: onnx.ModelProto,
    build: Build,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    plugins: Sequence[TensorRTPlugin] = (),
    typed: bool = False,
    expected: Sequence[Mapping[str, np.ndarray]] = (),
    expected_by: str = "",
    progress: Progress = silent,
) -> tuple[Ladder, Outcome]:
    """Return the ladder of a model, parsed, replayed on ``feeds`` and built, and what came of the child process.

    ``typed`` says that the types of the graph are a promise: a float32 layer of a 16-bit node then fails the rung
    ``built``, which names it either way. ``expected`` and ``expected_by`` are those of `BuildRequest`.

    Raises:
        EnvironmentProblem: the flavour is not installed, or does not load.
        PluginError: one of ``plugins`` fails.
    """
    registered = tuple(dict.fromkeys(plugin.register for plugin in plugins))
    (outcome,) = run_tasks(kind, [Task(file, read=True, build=build, plugins=registered)], progress=progress)
    if isinstance(outcome.problem, EnvironmentProblem):
        raise outcome.problem
    if outcome.network is None:
        return _refused(kind, outcome), outcome
    progress("replaying what the parser understood")
    ladder = Ladder((
        _accepted(kind, outcome.network, outcome.version),
        _understood(outcome.network, model, feeds, expected, expected_by),
        _built(kind, outcome, build.targets, plugins, audit(outcome.network, model), typed=typed),
        Rung("ran", PENDING, "An engine runs on a GPU of its targets only; nothing was run and nothing measured."),
    ))  # fmt: skip
    return ladder, outcome


def read_inputs(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name.

    Raises:
        SettingError: it is none.
    """
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise TypeError("it has one array without a name")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SettingError(
            f"--inputs {file} cannot be read: {str(error).splitlines()[0]}",
            hint="Write it with numpy.savez(FILE, NAME=ARRAY, …), one array an input of the model.",
        ) from error


def random_inputs(given: Sequence[GraphInput], shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, np.ndarray]:
    """Return random values: floating ones from the normal distribution, integers and booleans 0 and 1."""
    import onnx

    generator = np.random.default_rng(seed)
    values = {}
    for item in given:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.element_type)
        shape = tuple(shapes[item.name])
        if dtype.kind in "iub":
            values[item.name] = generator.integers(0, 2, shape).astype(dtype)
        else:
            values[item.name] = np.asarray(generator.standard_normal(shape)).astype(dtype)
    return values


def _random_feeds(
    given: Sequence[GraphInput], ranges: Mapping[str, ShapeRange], seed: int
) -> list[dict[str, np.ndarray]]:
    """Return inputs of the best, the lowest and the highest shapes, each set of shapes once."""
    sets = [{name: shapes[place] for name, shapes in ranges.items()} for place in (1, 0, 2)]
    distinct = [shapes for place, shapes in enumerate(sets) if shapes not in sets[:place]]
    return [random_inputs(given, shapes, seed + place) for place, shapes in enumerate(distinct)]


def _check_inputs(given: Sequence[GraphInput], inputs: Mapping[str, np.ndarray]) -> None:
    import onnx

    names = [item.name for item in given]
    for name in inputs:
        if name not in names:
            raise SettingError(
                f"The model has no input {name!r}.", hint=f"{suggest(name, names)} It has {', '.join(names)}."
            )
    for item in given:
        if item.name not in inputs:
            raise SettingError(f"--inputs lacks the input {item.name!r}.", hint=f"The model has {', '.join(names)}.")
        value, dtype = inputs[item.name], onnx.helper.tensor_dtype_to_np_dtype(item.element_type)
        fits = value.ndim == len(item.dims) and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(item.dims, value.shape, strict=True)
        )
        if value.dtype != dtype or not fits:
            raise SettingError(
                f"--inputs gives {item.name!r} as {value.dtype} {list(value.shape)}.",
                hint=f"The model takes {dtype} of the shape {item}.",
            )


def _shapes_of(given: Sequence[GraphInput], inputs: Mapping[str, np.ndarray], shapes: Sequence[str]) -> list[str]:
    """Return the shapes of the inputs as texts, for what ``--shape`` does not name."""
    named = {text.rpartition("=")[0].strip() for text in shapes}
    return [
        f"{item.name}={'x'.join(map(str, inputs[item.name].shape))}"
        for item in given
        if item.dynamic and item.name not in named and not named & set(item.dims)
    ]


def _shape_values(given: Sequence[GraphInput], inputs: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Return the contents of inputs that may be shapes; TensorRT wants to know those when it builds."""
    return {
        item.name: [int(value) for value in inputs[item.name].reshape(-1)]
        for item in given
        if item.name in inputs and inputs[item.name].dtype.kind in "iub" and inputs[item.name].size <= SHAPE_ITEMS
    }


def _refused(kind: Flavour, outcome: Outcome) -> Ladder:
    """Return the ladder of a model that did not get through the parser."""
    if outcome.problem is not None:
        summary, errors = outcome.problem.message, []
    else:
        errors = [error.to_json() for error in outcome.errors]
        nodes = [error for error in outcome.errors if error.node >= 0]
        summary = f"{kind.title} {outcome.version} does not take the model: {outcome.errors[0]}"
        if len(nodes) > 1:
            summary = f"{kind.title} {outcome.version} does not take {len(nodes)} nodes; the first: {nodes[0]}"
    details = {"version": outcome.version, "errors": errors, "log": outcome.log}
    hint = remedy([error["message"] for error in errors])
    accepted = Rung("accepted", FAILED, summary, details | ({"hint": hint} if hint else {}))
    rest = ("understood", "built", "ran")
    return Ladder((accepted, *(Rung(name, PENDING, "The parser has to take the model first.") for name in rest)))


def _accepted(kind: Flavour, network: ParsedNetwork, version: str) -> Rung:
    nodes = len({layer.node for layer in network.layers if layer.node})
    audit = network.audit()
    types = ", ".join(f"{count} {dtype.lower()}" for dtype, count in audit.items())
    return Rung(
        "accepted",
        PASSED,
        f"{kind.title} {version} made {len(network.layers)} layers of {nodes} nodes: {types}.",
        {"version": version, "layers": len(network.layers), "types": audit},
    )


def _understood(
    network: ParsedNetwork,
    model: onnx.ModelProto,
    feeds: Sequence[Mapping[str, np.ndarray]],
    expected: Sequence[Mapping[str, np.ndarray]],
    expected_by: str,
) -> Rung:
    from convkit.backends.tensorrt._understand import understand

    shapes = [{name: list(value.shape) for name, value in feed.items()} for feed in feeds]
    try:
        found = understand(network, model, feeds, expected=expected or None, expected_by=expected_by)
    except ConversionError as error:
        return Rung("understood", PENDING, error.message, {"hint": error.hint})
    details: dict[str, Any] = {
        "reference": found.reference,
        "shapes": shapes,
        "outputs": {name: verdict.to_json() for name, verdict in found.outputs.items()},
    }
    if found.not_replayed:
        return Rung(
            "understood",
            NOT_REPLAYED,
            f"No replay is known for {'; '.join(found.not_replayed)}. Nothing was compared.",
            {"not_replayed": list(found.not_replayed)},
        )
    if found.parting is not None:
        details["parting"] = found.parting.to_json()
        return Rung("understood", FAILED, f"What was built is not what the model says: {found.parting}", details)
    return Rung("understood", PASSED, _agreement(found, len(feeds)), details)


def _agreement(found: Understanding, cases: int) -> str:
    exact = all(verdict.error == 0 for verdict in found.outputs.values())
    worst = max(found.outputs.values(), key=lambda verdict: verdict.error / (verdict.limit or 1.0), default=None)
    how = "exactly" if exact or worst is None else f"to {worst.error:.2g} where {worst.limit:.2g} is allowed"
    outputs = f"{len(found.outputs)} output{'s' if len(found.outputs) != 1 else ''}"
    sets = f"{cases} set{'s' if cases != 1 else ''} of inputs"
    return f"Replayed layer by layer, {outputs} on {sets} agree with {found.reference} {how}."


def _built(
    kind: Flavour,
    outcome: Outcome,
    targets: Sequence[str],
    plugins: Sequence[TensorRTPlugin],
    found: Audit | None,
    *,
    typed: bool,
) -> Rung:
    details: dict[str, Any] = {"targets": dict(outcome.targets)}
    if found is not None:
        details["precision"] = found.to_json()
    if outcome.problem is not None:
        return Rung("built", FAILED, outcome.problem.message, details)
    failed = {target: reason for target, reason in outcome.targets.items() if reason}
    if outcome.plan is None:
        # A build for several targets may fail though each alone succeeds; then the joint one is what failed.
        first, reason = next(iter(failed.items()), (", ".join(targets), "the builder gave no reason"))
        others = [target for target in targets if target not in failed]
        rest = f" It builds for {', '.join(others)}." if others and failed else ""
        hint = remedy(failed.values(), list(failed), others)
        details |= {"log": outcome.log} | ({"hint": hint} if hint else {})
        return Rung("built", FAILED, f"{kind.title} builds no engine for {first}: {reason}{rest}", details)
    details["bytes"] = len(outcome.plan)
    if found is not None and found.silent and typed:
        summary = f"{kind.title} computes in float32 what the graph has in 16 bits: {found.silent[0]}; {found}."
        return Rung("built", FAILED, summary, details)
    types = f"; {found}" if found else ""
    if found is not None and found.silent:
        types += f" ({', '.join(map(str, found.silent[:3]))})"
    summary = f"An engine of {len(outcome.plan)} bytes for {', '.join(targets)}{types}. {plugins_note(plugins)}".strip()
    return Rung("built", PASSED, summary, details)
