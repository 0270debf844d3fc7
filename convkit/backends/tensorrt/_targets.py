"""Compute capabilities as people write them: ``sm86``, ``8.6``, ``sm86,sm89``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from convkit.backends.tensorrt._flavour import Flavour
from convkit.errors import ConversionError, EnvironmentProblem, SettingError

if TYPE_CHECKING:
    from convkit.backends.tensorrt._gpu import Gpu

__all__ = ["find_targets", "parse_targets"]


def find_targets(flavour: Flavour, texts: Iterable[str]) -> tuple[tuple[str, ...], Gpu | None]:
    """Return what an engine is built for on this machine, and the GPU of a flavour that builds only where one is.

    Raises:
        SettingError, ConversionError: see `parse_targets`.
        EnvironmentProblem: the flavour builds for the GPU of this machine, and there is none.
    """
    from convkit.backends.tensorrt import _gpu

    if flavour.targets:
        return parse_targets(flavour, texts, local=_gpu.local_target()), None
    try:
        gpu = _gpu.Gpu("cuda")
    except EnvironmentProblem as error:
        raise EnvironmentProblem(
            f"{flavour.title} times its kernels on the GPU that an engine is for, so it builds only there."
            f" {error.message}",
            hint="Do it on that machine; TensorRT-RTX (tensorrt-rtx) needs no GPU to build.",
        ) from error
    return parse_targets(flavour, texts, local=gpu.target), gpu


def parse_targets(flavour: Flavour, texts: Iterable[str], *, local: str = "") -> tuple[str, ...]:
    """Return compute capabilities as the flavour names them, each once.

    Without any, that is ``local``, the GPU of this machine, if the flavour makes engines for it, else the flavour's
    default. A flavour that builds for the GPU that it finds makes engines for ``local`` only.

    Raises:
        SettingError: a text is no compute capability.
        ConversionError: the flavour makes no engines for one of them.
    """
    known = flavour.targets or (local,)
    words = [word.strip().lower() for text in texts for word in text.split(",") if word.strip()]
    chosen: list[str] = []
    for word in words:
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", word)
        if not match:
            raise SettingError(f"--target {word!r} is not a compute capability.", hint=f"Known: {', '.join(known)}.")
        target = f"sm{match.group(1)}{match.group(2)}"
        if target not in known:
            where = "" if flavour.targets else f" here: it builds for the GPU of this machine, {local}"
            remedy = f"It makes engines for {', '.join(known)}." if flavour.targets else "Build where it will run."
            raise ConversionError(
                f"{flavour.title} makes no engines for {target} (compute capability {match[1]}.{match[2]}){where}.",
                hint=remedy,
            )
        if target not in chosen:
            chosen.append(target)
    return tuple(chosen) or ((local,) if local in known else flavour.default_targets)
