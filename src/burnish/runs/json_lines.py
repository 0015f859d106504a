"""Records as JSON Lines, which grow at their end and survive a kill in the middle of a line."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from burnish.errors import RunError


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Appends one JSON line, which is on its way to the disk when this returns."""
    with path.open("a+b") as file:
        _drop_torn_line(file)
        file.write(json.dumps(row).encode() + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON Lines, one in memory at a time; a last line that was cut off by a kill is skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line == b"\n":
                continue
            try:
                yield json.loads(line)
            except ValueError as error:  # no JSON, or cut within a letter
                if not line.endswith(b"\n"):
                    return
                raise RunError(
                    f"{path}:{number} is no JSON",
                    "delete the folder and run again",
                    code="not_json",
                    path=str(path),
                    line=number,
                ) from error


def _drop_torn_line(file: BinaryIO) -> None:
    """Cuts off a last line that a kill left without its end, lest the next one be glued to it."""
    end = file.seek(0, os.SEEK_END)
    while end:
        file.seek(end - 1)
        if file.read(1) == b"\n":
            break
        end -= 1
    file.truncate(end)
