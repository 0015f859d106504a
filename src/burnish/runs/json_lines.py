"""Appends and reads JSON Lines files that survive a kill in the middle of a line."""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import TypeAdapter

from burnish.errors import RunError

T = TypeVar("T")


def from_json(kind: type[T], values: Any) -> T:
    """Create a dataclass from JSON values, with lists for its tuples.

    Raises:
        ValueError: a value is missing or has the wrong type.
    """
    result: T = _adapter(kind).validate_python(values)  # type: ignore[arg-type]
    return result


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line; it is handed to the operating system when this returns."""
    with path.open("a+b") as file:
        _drop_torn_line(file)
        file.write(json.dumps(row).encode() + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read JSON Lines one at a time; an incomplete last line is skipped.

    Raises:
        RunError: another line is not valid JSON.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line == b"\n":
                continue
            try:
                yield json.loads(line)
            except ValueError as error:  # not JSON, or cut within a character
                if not line.endswith(b"\n"):
                    return
                raise RunError(
                    f"{path}:{number} is not valid JSON",
                    "delete the folder and start the run again",
                    code="not_json",
                    path=str(path),
                    line=number,
                ) from error


def _drop_torn_line(file: BinaryIO) -> None:
    """Remove an incomplete last line, so that the next line starts on its own."""
    end = file.seek(0, os.SEEK_END)
    while end:
        file.seek(end - 1)
        if file.read(1) == b"\n":
            break
        end -= 1
    file.truncate(end)
