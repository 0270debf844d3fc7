"""Errors of torch, cupy and the CUDA driver, as errors for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convkit.errors import EnvironmentProblem

__all__ = ["gpu_errors", "refuses_capture"]


@contextmanager
def gpu_errors(count: int) -> Iterator[None]:
    """Turn errors of torch, cupy and the driver into errors for people."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise EnvironmentProblem(
                f"There is not enough memory for a batch of {count}: {text}", hint="Use a smaller batch."
            ) from error
        raise EnvironmentProblem(
            f"The GPU failed on a batch of {count}: {text}",
            hint="An earlier kernel may be the cause; CUDA_LAUNCH_BLOCKING=1 shows which one.",
        ) from error


def refuses_capture(error: BaseException, handled: BaseException | None) -> bool:
    """Return whether work cannot be captured, by the first error of the capture.

    torch ends a capture after an error, which raises a second one; ``handled`` is what was handled before the capture.
    """
    root, before = error, error.__cause__ or error.__context__
    while before is not None and before is not handled:
        root, before = before, before.__cause__ or before.__context__
    return "captur" in str(root).lower() and "out of memory" not in str(root).lower()
