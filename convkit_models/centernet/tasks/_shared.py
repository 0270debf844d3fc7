"""What the specifications of all tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convkit import Dim, Expect, ModelSpec, Request, TensorSpec, Tolerance, exactly
from convkit.errors import CheckpointError, SettingError
from convkit.processing import check_normalisation
from convkit_models.centernet._names import INPUT
from convkit_models.centernet.networks import STRIDE, Layout

__all__ = [
    "CELLS",
    "LOGITS",
    "OUTPUT_PATCH",
    "PIXELS",
    "PREPROCESS",
    "THRESHOLDS",
    "check_channels",
    "check_room_for",
    "checked_dims",
    "expected_patches",
    "model_spec",
    "output_maps",
    "preprocess_of",
]

PREPROCESS = "centernet.affine"
OUTPUT_PATCH = "centernet.output-form"
THRESHOLDS = ("confidence", "nms")
"""The options that only the decoding of tensorRT_Pro has."""

LOGITS = Tolerance(atol=1e-5, reason="float32 sums in another order; 1e-5 of a logit moves a score by 3e-6 at most")
CELLS = Tolerance(atol=1e-5, reason="float32 sums in another order; 1e-5 of a cell is 0.00004 px of the input")
PIXELS = Tolerance(atol=4e-5, reason="float32 sums in another order; as in the heads, times the stride of 4")


def checked_dims(
    request: Request,
    layout: Layout,
    options: Mapping[str, Any],
    task: str,
    *,
    forms: tuple[str, ...] = ("heads",),
    decodings: tuple[str, ...] = ("official", "fixed"),
) -> dict[str, Dim]:
    """Return the dimensions that were asked for by name, after the checks of every task.

    Raises:
        SettingError: a dimension does not go with the network, or the task lacks the form, the decoding or an option.
    """
    dims = _narrowed(request, layout)
    _check_options(dims, options)
    _refuse_form(request.form, forms, task)
    _refuse_decoding(options, decodings, task)
    return dims


def model_spec(
    request: Request,
    layout: Layout,
    options: Mapping[str, Any],
    info: Mapping[str, Any],
    dims: Mapping[str, Dim],
    decode: Mapping[str, Any],
    *,
    names: Sequence[str],
    suffix: str = "",
    outputs: tuple[TensorSpec, ...] = (),
    preprocess: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Return the specification of a network that takes an image.

    ``decode`` begins with its kind and holds what only this task has, ``suffix`` ends the variant's name, ``outputs``
    are the raw maps where none are given, and ``preprocess`` is what this task has beside the usual settings.
    """
    return ModelSpec(
        variant=f"{layout.architecture}{suffix}",
        dims=tuple(dims.values()),
        inputs=(TensorSpec(INPUT, ("batch", 3, "height", "width")),),
        outputs=outputs or output_maps(layout),
        preprocess={**preprocess_of(options, dims, layout), **(preprocess or {})},
        decode={"kind": decode["kind"], "form": request.form, "stride": STRIDE, "topk": options["topk"], **decode},
        classes=tuple(names),
        info=info,
        expect=expected_patches(layout),
    )


def _narrowed(request: Request, layout: Layout) -> dict[str, Dim]:
    """Return the dimensions that were asked for by name; height and width are multiples of what the network needs.

    Raises:
        SettingError: one is not.
    """
    return {
        dim.name: replace(dim, multiple_of=layout.multiple) if dim.name in ("height", "width") else dim
        for dim in request.dims
    }


def _check_options(dims: Mapping[str, Dim], options: Mapping[str, Any]) -> None:
    """Check the options that every task has.

    Raises:
        SettingError: one cannot be obeyed.
    """
    topk = options["topk"]
    if topk < 1:
        raise SettingError(f"Option 'topk' cannot be {topk}.", hint="Give at least 1; the official value is 100.")
    check_normalisation({name: list(options[name]) for name in ("mean", "std")}, largest=1.0)
    if options["resize"] == "keep_res" and not (dims["height"].dynamic and dims["width"].dynamic):
        raise SettingError(
            "With resize=keep_res the input is as large as each image, but height and width are fixed.",
            hint="Give ranges, for example --shape height=64:512:1344 --shape width=64:512:1344.",
        )


def check_room_for(topk: int, dims: Mapping[str, Dim], what: str) -> None:
    """Check that the smallest map has as many cells as the graph is to choose.

    Raises:
        SettingError: it has fewer.
    """
    cells = dims["height"].min // STRIDE * (dims["width"].min // STRIDE)
    if cells < topk:
        raise SettingError(
            f"The smallest input has {cells} cells, fewer than the {topk} {what} that are asked for.",
            hint=f"Give a larger height and width, or --set topk={cells}.",
        )


def _refuse_form(form: str, known: tuple[str, ...], task: str) -> None:
    """Refuse an output form that the task has not.

    Raises:
        SettingError: ``form`` is none of the known ones.
    """
    if form not in known:
        raise SettingError(
            f"The task {task} has no output form {form!r}.", hint=f"Use --form {' or --form '.join(known)}."
        )


def _refuse_decoding(options: Mapping[str, Any], known: tuple[str, ...], task: str) -> None:
    """Refuse a way of decoding that the task has not.

    Raises:
        SettingError: the option ``decode`` is none of the known ones.
    """
    if options["decode"] not in known:
        raise SettingError(
            f"The task {task} has no decoding {options['decode']!r}.",
            hint=f"Use --set decode={' or decode='.join(known)}.",
        )


def check_channels(layout: Layout, wanted: Mapping[str, int], source: str) -> None:
    """Check the number of channels of heads that have a fixed one.

    Raises:
        CheckpointError: one has another.
    """
    for name, count in wanted.items():
        if (found := layout.channels.get(name, count)) != count:
            raise CheckpointError(f"{source} has a head {name} of {found} channels.", hint=f"It must have {count}.")


def preprocess_of(options: Mapping[str, Any], dims: Mapping[str, Dim], layout: Layout) -> dict[str, Any]:
    """Return the specification of the preprocess."""
    keep_res = options["resize"] == "keep_res"
    return {
        "kind": PREPROCESS,
        "resize": options["resize"],
        "height": None if keep_res else dims["height"].opt,
        "width": None if keep_res else dims["width"].opt,
        "pad": layout.multiple - 1,
        "mean": list(options["mean"]),
        "std": list(options["std"]),
    }


def expected_patches(layout: Layout) -> dict[str, Expect]:
    """Return how often each patch and rewrite fires."""
    expect = {OUTPUT_PATCH: exactly(1)}
    if layout.deformable:
        expect["dcnv2.fold-batchnorm"] = exactly(layout.deformable)
    return expect


def output_maps(layout: Layout) -> tuple[TensorSpec, ...]:
    """Return the outputs of the form ``heads``: each raw map, in the layout's order."""
    return tuple(
        TensorSpec(
            name,
            ("batch", channels, f"height/{STRIDE}", f"width/{STRIDE}"),
            tolerance=LOGITS if name.startswith("hm") else CELLS,
        )
        for name, channels in layout.channels.items()
    )
