"""The error tree.

    BurnishError
    ├── UserError         a mistake that the user can fix; exit code 2, no traceback
    │   ├── RecipeError   all problems of one recipe
    │   ├── DataError     rows or files that cannot be used
    │   ├── ModelError    a model or adapter that cannot be loaded or does not fit
    │   ├── RunError      a run directory that is missing, incomplete or exists already
    │   ├── PreflightError  a preflight check failed
    │   ├── GraderError   a grader that cannot be read or run
    │   ├── DivergedError the loss of a training step is not finite
    │   └── WorkerLostError  a data-parallel process has ended
    └── InterruptedRunError  the user or the system stopped the run; a checkpoint was written

Any other exception is a bug: it shows its traceback and ends with exit code 3. A full disk is not a
bug, whichever library reports it.
"""

import errno
import os
import re
import reprlib
from typing import Any, Self

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Only system calls set the error number: safetensors, tokenizers and shutil.copytree have the
# system's text, SQLite has its own text, and numpy gives the numbers of bytes.
_FULL_TEXTS = re.compile(
    "|".join((*map(os.strerror, _FULL), "disk is full", r"\d+ requested and \d+ written"))
)

_LONGEST_VALUE = 200
_LONGEST_LINE = 10_000
# A long quotation, and a word that is longer than any path.
_QUOTED = re.compile(r"(?<![\w'\"])(['\"])((?:(?!\1)[^\\]|\\.){200})(?:(?!\1)[^\\]|\\.)*\1(?!\w)")
_UNBROKEN = re.compile(r"(\S{200})\S{300,}")
# Reads only as much of a large value as a quotation can show.
_REPR = reprlib.Repr()
_REPR.maxlevel = 6
_REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = _REPR.maxset = 50
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 2 * _LONGEST_VALUE


def shown(value: object) -> str:
    """Return a value for a message: in Python's notation, cut after 200 characters."""
    try:
        return cut(_REPR.repr(value))
    except ValueError:  # Python does not format numbers of over 4,300 digits
        return "a number of thousands of digits"


def cut(text: str, longest: int = _LONGEST_VALUE) -> str:
    """Cut a text after `longest` characters, and mark the cut with an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def quantity(count: float, one: str, many: str = "") -> str:
    """Return a count with its noun in singular or plural, such as `1 row` or `12 rows`.

    `one` and `many` may include words that follow, such as `row is` and `rows are`; `many` is `one`
    with an s by default.
    """
    number = f"{count:g}" if isinstance(count, float) else str(count)
    return f"{number} {one if count == 1 else many or one + 's'}"


class BurnishError(Exception):
    """Base class of the errors that Burnish raises."""


class UserError(BurnishError):
    """A mistake that the user can fix: a sentence with the wrong value, and the remedy.

    Users read the message; programs use only `code` and `fields`, so a message can be reworded.

    Args:
        seen: the mistake and the wrong value, without a final full stop.
        remedy: how to fix it, as an imperative sentence without a final full stop, or a question.
        code: the kind of mistake, a constant in snake_case such as `unknown_key`.
        fields: the values in the message, as JSON values.
    """

    def __init__(self, seen: str, remedy: str, *, code: str, **fields: Any) -> None:
        # A message may quote very long values.
        self.seen, self.remedy = (readable(part) for part in (seen, remedy))
        self.code, self.fields = code, fields
        end = "" if self.remedy.endswith("?") else "."
        super().__init__(f"{self.seen}: {self.remedy}{end}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error, so that other processes can receive it."""
        return _rebuilt, (type(self), self.seen, self.remedy, self.code, self.fields)

    def within(self, location: str) -> Self:
        """Return the same error with its location before the sentence."""
        return type(self)(f"{location}{self.seen}", self.remedy, code=self.code, **self.fields)


def _rebuilt(
    kind: type[UserError], seen: str, remedy: str, code: str, fields: dict[str, Any]
) -> UserError:
    return kind(seen, remedy, code=code, **fields)


def readable(text: str) -> str:
    """Cut long quotations, words and lines of a message, so that it fits on a screen."""
    lines = (cut(line, _LONGEST_LINE) for line in text.split("\n"))
    return "\n".join(_UNBROKEN.sub(r"\1…", _QUOTED.sub(r"\1\2…\1", line)) for line in lines)


class RecipeError(UserError):
    """One or more problems of a recipe."""


class DataError(UserError):
    """Rows or files that cannot be used."""


class ModelError(UserError):
    """A model or an adapter that cannot be loaded or does not fit."""


class RunError(UserError):
    """A run directory that is missing, incomplete or exists already."""


class PreflightError(UserError):
    """A preflight check that failed, before the first step of a run."""


class GraderError(UserError):
    """A grader that cannot be read or run."""


class DivergedError(UserError):
    """The loss of a training step is not finite."""


class WorkerLostError(UserError):
    """A data-parallel process has ended; the last checkpoint stays."""


class InterruptedRunError(BurnishError):
    """The user or the system stopped the run, after a checkpoint was written."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or an error that caused it, is about a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _FULL_TEXTS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
