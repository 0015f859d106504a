"""The error tree.

    BurnishError
    ├── UserError         what was seen + the remedy; exit code 2, no traceback
    │   ├── RecipeError   every problem of one recipe at once
    │   ├── DataError     rows or files that cannot be used
    │   ├── ModelError    a model or adapter that cannot be had or does not fit
    │   ├── RunError      a run directory that is missing, half written or in the way
    │   ├── PreflightError  a promise that a run would not keep
    │   ├── GraderError   a grader that cannot be read, or that nothing here can run
    │   ├── DivergedError the loss of a training step is not finite
    │   └── WorkerLostError  one of several processes that learn together is gone
    └── InterruptedRunError  the user or the system stopped the run; a checkpoint was written

Anything else that escapes is our own mistake, shows its traceback and ends with exit code 3; but a
disk that is full is nobody's, whichever library met it.
"""

import errno
import os
import re
import reprlib
from typing import Any, Self

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Only the system's own calls give its number: safetensors, tokenizers and shutil.copytree spell the
# error, SQLite has words of its own, and numpy counts what it could not write.
_SPELT = re.compile(
    "|".join((*map(os.strerror, _FULL), "disk is full", r"\d+ requested and \d+ written"))
)

_LONGEST_VALUE = 200
_LONGEST_LINE = 10_000
# A quotation, and a word that no language has; a path may be as long.
_QUOTED = re.compile(r"(?<![\w'\"])(['\"])((?:(?!\1)[^\\]|\\.){200})(?:(?!\1)[^\\]|\\.)*\1(?!\w)")
_UNBROKEN = re.compile(r"(\S{200})\S{300,}")
# Looks no deeper and no further than a quotation can show, however large the value is.
_REPR = reprlib.Repr()
_REPR.maxlevel = 6
_REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = _REPR.maxset = 50
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 2 * _LONGEST_VALUE


def shown(value: object) -> str:
    """A value as an error quotes it: Python's notation, cut after 200 characters."""
    try:
        return cut(_REPR.repr(value))
    except ValueError:  # Python writes no number of over 4,300 digits
        return "a number of thousands of digits"


def cut(text: str, longest: int = _LONGEST_VALUE) -> str:
    """A text of at most so many characters; an ellipsis says where more was."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


class BurnishError(Exception):
    """Root of every error that Burnish raises on purpose."""


class UserError(BurnishError):
    """A mistake that the user can fix: one sentence with the value seen, then the remedy.

    People read the sentence; programs decide by `code` and `fields`, so that a better wording
    changes nothing that they do.

    Args:
        seen: what was wrong, naming the value, without a final full stop.
        remedy: what to do about it, as an imperative sentence without a final full stop, or a
            question.
        code: the kind of mistake, a constant in snake_case such as `unknown_key`.
        fields: the values that the sentence names, as JSON can hold them.
    """

    def __init__(self, seen: str, remedy: str, *, code: str, **fields: Any) -> None:
        # Whatever a message quotes, a person reads it on a screen.
        self.seen, self.remedy = (readable(part) for part in (seen, remedy))
        self.code, self.fields = code, fields
        end = "" if self.remedy.endswith("?") else "."
        super().__init__(f"{self.seen}: {self.remedy}{end}")

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it travels from one process to another."""
        return _rebuilt, (type(self), self.seen, self.remedy, self.code, self.fields)

    def within(self, place: str) -> Self:
        """The same mistake, with the place where it was made before the sentence."""
        return type(self)(f"{place}{self.seen}", self.remedy, code=self.code, **self.fields)


def _rebuilt(
    kind: type[UserError], seen: str, remedy: str, code: str, fields: dict[str, Any]
) -> UserError:
    return kind(seen, remedy, code=code, **fields)


def readable(text: str) -> str:
    """A message for a screen, whatever it quotes: long quotations and long words are cut."""
    lines = (cut(line, _LONGEST_LINE) for line in text.split("\n"))
    return "\n".join(_UNBROKEN.sub(r"\1…", _QUOTED.sub(r"\1\2…\1", line)) for line in lines)


class RecipeError(UserError):
    """One or several problems of one recipe."""


class DataError(UserError):
    """Rows or files that cannot be used."""


class ModelError(UserError):
    """A model or an adapter that cannot be had or does not fit."""


class RunError(UserError):
    """A run directory that is missing, half written or in the way."""


class PreflightError(UserError):
    """A promise that a run would not keep, found before its first step."""


class GraderError(UserError):
    """A grader that cannot be read, or that nothing here can run."""


class DivergedError(UserError):
    """The loss of a training step is not finite."""


class WorkerLostError(UserError):
    """One of several processes that learn together is gone; the last checkpoint stays."""


class InterruptedRunError(BurnishError):
    """The run was stopped from outside after a checkpoint was written."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether no room on the disk is what it says, or what it came of."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _SPELT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
