"""What each operator of a network takes in the backend torch on a GPU: where the time of an artifact goes.

Each step of the program is captured 20 times in a CUDA graph of its own, on the tensors that it was given in the
network; its time is the median of replays, divided by 20. So a step reads its input from the L2 cache where that fits
(50 MB), and its neighbours do not overlap it. Steps of the same operator and shapes are one row. ``GB/s`` counts each
tensor once: arguments, constants and results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_timing import captured, in_turns, machine
from torch import Tensor

from convkit import Artifact
from convkit.backends import Engine
from convkit.backends.torch import Torch
from convkit.errors import ConvkitError

CALLS = 20


def sizes(values: Sequence[Any]) -> str:
    """Return the shapes of tensors as a row shows them; those of one axis are left out."""
    return " ".join(
        "x".join(map(str, value.shape[1:])) for value in values if isinstance(value, Tensor) and value.dim() > 1
    )


def traced(program: Any, inputs: dict[str, Tensor]) -> Iterator[tuple[Any, list[Any], Any]]:
    """Yield the steps of one run that compute on the GPU, with their arguments and results; views are left out."""
    found: list[tuple[Any, list[Any], Any]] = []

    def watched(step: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            result = function(*arguments)
            found.append((step, list(arguments), result))
            return result

        return run

    plain = {id(step): step.function for step in program._steps}
    for step in program._steps:
        step.function = watched(step, step.function)
    program.run(inputs)
    for step in program._steps:
        step.function = plain[id(step)]
    for step, arguments, result in found:
        first = result[0] if isinstance(result, tuple) else result
        given = {value.untyped_storage().data_ptr() for value in arguments if isinstance(value, Tensor)}
        if first.is_cuda and first.untyped_storage().data_ptr() not in given:
            yield step, arguments, result


def microseconds(function: Callable[..., Any], arguments: Sequence[Any]) -> float:
    """Return the time of one call."""
    return in_turns({"": captured(lambda: function(*arguments), CALLS).replay}, 10)[""] / CALLS


def main() -> None:
    """Print a table for each batch size, the longest rows first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[8])
    parser.add_argument("--rows", type=int, default=40, help="rows of a table")
    options = parser.parse_args()
    try:
        artifact = Artifact.open(options.artifact)
    except ConvkitError as error:
        parser.exit(1, " ".join(str(error).splitlines()) + "\n")
    print(machine(), end="\n\n", flush=True)
    session: Any = Torch().open(Engine("torch", artifact.model), device="cuda")
    (name,) = session.program.inputs
    for batch in options.batches:
        images = torch.randn(batch, 3, 512, 512, device="cuda").to(session.program.entry(name))
        rows: dict[tuple[str, str, str], list[float]] = {}
        with torch.inference_mode(), session.settings():
            given = {name: images.contiguous(memory_format=torch.channels_last)}
            session.program.run(given)
            whole = in_turns({"": captured(lambda given=given: session.program.run(given)).replay})[""]
            for step, arguments, result in traced(session.program, given):
                results = list(result) if isinstance(result, tuple) else [result]
                weight = step.node.constant(1)
                kind = step.function.__qualname__.partition(".<locals>")[0].lstrip("_")
                shape = f"{sizes(arguments)} -> {sizes(results)}"
                if weight is not None and weight.ndim > 1:
                    shape += f", weight {'x'.join(map(str, weight.shape))}"
                tensors = [value for value in (*arguments, *results) if isinstance(value, Tensor) and value.is_cuda]
                taken = microseconds(step.function, arguments)
                total = rows.setdefault((step.node.op_type, kind, shape), [0, 0.0, 0.0])
                total[0] += 1
                total[1] += taken
                total[2] += sum(value.numel() * value.element_size() for value in tensors)
        everything = sum(taken for _, taken, _ in rows.values())
        print(f"batch {batch}: {whole:.0f} us in a CUDA graph, {everything:.0f} us as the sum of the steps\n")
        print("| operator | by | shapes without the batch | steps | us | GB/s |\n|---|---|---|---|---|---|")
        longest = sorted(rows.items(), key=lambda row: -row[1][1])
        for (operator, kind, shape), (count, taken, volume) in longest[: options.rows]:
            print(f"| {operator} | {kind} | {shape} | {count:.0f} | {taken:.1f} | {volume / taken / 1e3:.0f} |")
        print(flush=True)


if __name__ == "__main__":
    main()
