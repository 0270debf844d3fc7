"""Errors of torch, cupy and the CUDA driver, as errors for people."""

from __future__ import annotations

from convkit.errors import ConvkitError, EnvironmentProblem, KernelError

__all__ = ["first_error", "gpu_errors", "refuses_capture"]


class gpu_errors:  # noqa: N801 - used as a function
    """Turn errors of torch, cupy and the driver, about a batch of so many, into errors for people."""

    __slots__ = ("_count",)

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, RuntimeError | MemoryError):
            return
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            raise EnvironmentProblem(
                f"There is not enough memory for a batch of {self._count}: {text}", hint="Use a smaller batch."
            ) from error
        raise EnvironmentProblem(
            f"The GPU failed on a batch of {self._count}: {text}",
            hint="An earlier kernel may be the cause; CUDA_LAUNCH_BLOCKING=1 shows which one.",
        ) from error


def first_error(error: BaseException, handled: BaseException | None) -> BaseException:
    """Return the first failure that led to the error of a capture.

    torch ends a capture after a failure, which raises a second error whose text says nothing about the first.
    ``handled`` is the exception that was being handled before the capture.
    """
    first, link = error, error
    while (before := link.__cause__ or link.__context__) is not None and before is not handled:
        link = before
        if isinstance(link, (RuntimeError, MemoryError, ConvkitError)) or not isinstance(link, Exception):
            first = link
    return first


def refuses_capture(error: BaseException) -> bool:
    """Return whether an error says that the work cannot be captured in a CUDA graph."""
    text = str(error).lower()
    return isinstance(error, (RuntimeError, KernelError)) and "captur" in text and "out of memory" not in text
