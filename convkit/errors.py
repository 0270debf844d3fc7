"""The errors that convkit raises: each states a fact, offers a remedy and carries an exit code.

Exit codes: 1 user error, 2 usage, 3 conversion failed, 4 validation failed, 5 environment.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from convkit.proof import Verdict

__all__ = [
    "AdapterError",
    "AdapterNotFoundError",
    "ArtifactError",
    "CheckpointError",
    "ConversionError",
    "ConvkitError",
    "EnvironmentProblem",
    "ExportError",
    "ImageError",
    "InputError",
    "IntegrityError",
    "Interrupted",
    "KernelArgumentError",
    "KernelError",
    "NotFiniteError",
    "OutputError",
    "PatchError",
    "PluginError",
    "ProofFailedError",
    "RewriteError",
    "SettingError",
    "ValidationError",
    "at_stage",
    "blamed_on",
    "listing",
    "named",
    "suggest",
    "unwritten",
]


class ConvkitError(Exception):
    """Base of all errors for people: ``message`` is the fact, ``hint`` the remedy.

    ``stage`` is the stage of a conversion that found it, empty elsewhere; see `at_stage`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint.strip()
        self.stage = ""

    def __str__(self) -> str:
        stage = f"Stage: {self.stage}" if self.stage else ""
        return "\n".join(filter(None, (self.message, stage, self.hint)))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP; ``outcome`` says what was written until then, in a few words."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class SettingError(ConvkitError):
    """A flag or setting has a value that cannot be obeyed."""

    exit_code = 2


class AdapterNotFoundError(ConvkitError):
    """No installed plugin offers the adapter that was asked for."""


class CheckpointError(ConvkitError):
    """The weights file cannot be read, is unsafe, or does not fit the adapter's networks."""


class InputError(ConvkitError):
    """A raw input cannot be read, or is not what the model takes."""


class ImageError(InputError):
    """An image or video cannot be read or has no pixels."""


class OutputError(ConvkitError):
    """The place for the results exists already or cannot be written."""


class ArtifactError(ConvkitError):
    """A directory is not a complete convkit artifact."""


class ConversionError(ConvkitError):
    """A stage of the conversion failed."""

    exit_code = 3


class AdapterError(ConversionError):
    """An adapter breaks its contract: a shape, a name, a type of what it returns."""


class PatchError(ConversionError):
    """An export patch matched or fired another number of times than it declares."""


class ExportError(ConversionError):
    """PyTorch could not export the model, or the exported graph is not valid."""


class RewriteError(ConversionError):
    """A graph rewrite fired another number of times than it declares, or broke the graph."""


class KernelError(ConversionError):
    """A CUDA kernel is declared wrongly, does not compile, or breaks the bound or signature that it declares."""


class KernelArgumentError(ConvkitError, ValueError):
    """A kernel would be launched with an argument or a geometry that it does not take."""


class ValidationError(ConvkitError):
    """Something that claims to be proved is not."""

    exit_code = 4


class NotFiniteError(ValidationError):
    """An engine returned NaN or infinity for an input: nothing is decoded from it.

    ``output`` is the name of the output, ``what`` is ``NaN`` or ``infinity``, ``row`` the item of the batch.
    """

    def __init__(self, message: str, *, hint: str = "", output: str = "", what: str = "", row: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.output, self.what, self.row = output, what, row

    @classmethod
    def found(cls, output: str, what: str, row: int, source: str = "") -> NotFiniteError:
        """Return the error for an output of an item of a batch, of the input ``source``."""
        return cls(
            f"{source}{': ' * bool(source)}The engine returned {what} in output {output!r};"
            " nothing can be decoded from it.",
            hint="Look at the input's values; in 16 bits a network may overflow: bf16 and fp32 have a wider range.",
            output=output,
            what=what,
            row=row,
        )

    def of(self, source: str) -> NotFiniteError:
        """Return the error with the name of the input that it concerns."""
        return self.found(self.output, self.what, self.row, source)


class IntegrityError(ValidationError):
    """A file of an artifact is not the file that was proved."""


class ProofFailedError(ValidationError):
    """Two stages do not compute the same thing; ``verdict`` tells where."""

    def __init__(self, message: str, *, hint: str = "", verdict: Verdict | None = None) -> None:
        super().__init__(message, hint=hint)
        self.verdict = verdict


class EnvironmentProblem(ConvkitError):  # noqa: N818 - EnvironmentError is a builtin
    """This machine lacks something: a library, a device, room on the disk."""

    exit_code = 5


class PluginError(EnvironmentProblem):
    """A plugin breaks the contract of the hooks."""


class blamed_on:  # noqa: N801 - used as a function
    """Turn what code of a plugin raises into an error for people; errors that are meant for people pass.

    ``what`` names the code, such as ``the preprocess`` or ``rewrite 'mine.fuse'``, ``plugin`` whose it is where that is
    known; ``hint`` says what such code has to heed. Errors of the types ``passing`` are about something else and pass.
    A context manager without state: one may be entered again and again, by several threads.

    Raises:
        AdapterError: the block raised anything that is no `ConvkitError`, `SystemExit` included.
        EnvironmentProblem: there is not enough memory.
    """

    __slots__ = ("_hint", "_passing", "_plugin", "_what")

    def __init__(
        self, what: str, plugin: str = "", hint: str = "", *, passing: tuple[type[Exception], ...] = ()
    ) -> None:
        self._what, self._plugin, self._hint, self._passing = what, plugin, hint, passing

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception | SystemExit) or isinstance(error, (ConvkitError, *self._passing)):
            return
        lines = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        who = named(self._what, self._plugin)
        if isinstance(error, MemoryError) or "not enough memory" in text or "out of memory" in text.lower():
            raise EnvironmentProblem(
                f"{who} needs more memory than there is: {text}", hint="Give smaller sizes or batches."
            ) from error
        advice = f"{self._hint} " if self._hint else ""
        raise AdapterError(
            f"{who} raised {text}",
            hint=f"{advice}That is a mistake in the plugin that it belongs to; CONVKIT_DEBUG=1 shows where.",
        ) from error


def named(what: str, plugin: str = "") -> str:
    """Return how a message begins that is about code of a plugin: ``Plugin 'mine': the preprocess``."""
    return f"Plugin {plugin!r}: {what}" if plugin else f"{what[0].upper()}{what[1:]}"


@contextmanager
def at_stage(name: str, plugin: str = "") -> Iterator[None]:
    """Give errors of the block, as far as an author has to mend them, the name of the stage that found them.

    An `AdapterError` whose message names no plugin is one of ``plugin``.
    """
    try:
        yield
    except (ConversionError, PluginError) as error:
        error.stage = error.stage or name
        if plugin and isinstance(error, AdapterError) and "lugin " not in error.message:
            error.message = f"Plugin {plugin!r}: {error.message}"
        raise


def unwritten(path: Path | str, error: OSError, hint: str) -> ConvkitError:
    """Return what a failed write to ``path`` means to people: a full disk is a problem of the machine.

    So are a quota that is used up and a file that is larger than the system allows. ``hint`` is a sentence that says
    where else may be written.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return EnvironmentProblem(
            f"No room to write {path}: {error.strerror}.", hint=f"Free some space, or {hint[0].lower()}{hint[1:]}"
        )
    return OutputError(f"Cannot write {path}: {error.strerror or error}.", hint=hint)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean X?"`` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else ""


def listing(names: Iterable[str], most: int = 6) -> str:
    """Return names for a message, separated by commas: ``most`` of them, long ones shortened, and how many are left."""
    shown = [name if len(name) <= 100 else f"{name[:99]}…" for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
