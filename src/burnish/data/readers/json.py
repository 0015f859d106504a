"""Rows of JSON: an object on each line, an array of objects, or objects one after the other.

Which of them a file holds is read from its first lines, whatever its name says.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from burnish.data.formats import KNOWN
from burnish.data.readers.csv import is_table
from burnish.data.readers.encoding import lines, open_utf8
from burnish.data.readers.json_values import (
    DECODER,
    FORGIVING,
    RepeatedKeyError,
    Values,
    object_row,
    repeated,
    what,
)
from burnish.data.row import MAX_ROW_BYTES, BadRow, Notice, Row, not_utf8, too_long
from burnish.errors import DataError, quantity, shown

_LINES_SEEN = 20
_BEGINNING = 40  # bytes of a line that show what it is


def json_lines(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """The rows of a `.jsonl` file.

    Raises:
        DataError: it holds no line of JSON, or an array or objects over several lines that are
            broken.
    """
    _refuse_other(path, "is {}, not JSON Lines")
    first, second = _first_lines(path)
    if (key := _key_of_rows(path, first, second)) is not None:
        return Values(path, notice, is_array=False).under(key)
    if first.startswith(b"[") and not (second and isinstance(_parsed(first), list)):
        notice(f"{path} holds one JSON array instead of one object per line, and was read as one")
        return Values(path, notice, is_array=True).rows()
    if _is_series(first, second):
        notice(f"{path} does not hold one object on each line, and was read object by object")
        return Values(path, notice, is_array=False).rows()
    return _lines_of(path, notice)


def json_array(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """The rows of a `.json` file.

    Raises:
        DataError: it is neither an array nor several objects, or is broken.
    """
    _refuse_other(path, "holds no JSON array but {}")
    first, second = _first_lines(path)
    if (key := _key_of_rows(path, first, second)) is not None:
        return Values(path, notice, is_array=False).under(key)
    if first.startswith(b"["):
        return Values(path, notice, is_array=True).rows()
    if not first.startswith(b"{"):
        raise _no_array(path)
    if second.startswith(b"{") and isinstance(_parsed(first), dict):
        notice(f"{path} holds an object on each line instead of one array, and was read as such")
        return _lines_of(path, notice)
    return _several(path, Values(path, notice, is_array=False).rows(), notice)


def _refuse_other(path: Path, seen: str) -> None:
    if found := other_kind(path):
        kind, ending = found
        raise DataError(
            f"{path} {seen.format(kind)}",
            f"name it {ending}",
            code="other_file_kind",
            path=str(path),
            found=kind,
        )


def other_kind(path: Path) -> tuple[str, str] | None:
    """What a file without a line of JSON holds, and how its name should end; None where one has."""
    with open_utf8(path) as file:
        start = [*islice(filter(None, map(bytes.strip, lines(file))), _LINES_SEEN)]
    if not start or any(line[:1] in b"[{" or _parsed(line) is not None for line in start):
        return None
    for delimiter, kind, ending in ((",", "a CSV file", ".csv"), ("\t", "a TSV file", ".tsv")):
        if is_table(path, delimiter):
            return kind, ending
    if is_table(path, ";"):
        return "a CSV file", ".csv"
    return None if len(start) == 1 else ("plain text", ".txt")


def _key_of_rows(path: Path, first: bytes, second: bytes) -> str | None:
    """The key of the one list of objects in a file that is one object and no row itself.

    Raises:
        DataError: there are several such lists.
    """
    if not first.startswith(b"{") or (second.startswith((b"{", b",")) and _parsed(first)):
        return None
    lists = Values(path, lambda _: None, is_array=False).lists()
    names = [shown(name) for name in lists or ()]
    if lists is None or not names or KNOWN & {name.lower() for name in lists}:
        return None
    if len(names) > 1:
        raise DataError(
            f"{path} holds no JSON array but an object with the lists {', '.join(names)}",
            "write each list into a file of its own, and name them as data.train and data.test",
            code="several_lists",
            path=str(path),
            keys=[*lists],
        )
    return next(iter(lists))


def _first_lines(path: Path) -> tuple[bytes, bytes]:
    """The first two lines that are not empty, as far as there are any."""
    with open_utf8(path) as file:
        found = [*islice(filter(None, map(bytes.strip, lines(file))), 2), b"", b""]
    return found[0], found[1]


def _is_series(first: bytes, second: bytes) -> bool:
    """Whether the first line holds several objects, or begins one that the next line continues."""
    text = first.decode("utf-8", "replace")
    if not text.startswith("{"):
        return False
    try:
        _, end = FORGIVING.raw_decode(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) and bool(second) and not isinstance(_parsed(second), dict)
    except (ValueError, RecursionError):
        return False
    return text[end:].lstrip(" \t,").startswith("{")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _several(path: Path, rows: Iterator[Row | BadRow], notice: Notice) -> Iterator[Row | BadRow]:
    """Objects one after the other; a single one is rather a wrapping of the rows."""
    first = list(islice(rows, 2))
    if len(first) == 1:
        raise _no_array(path, first[0].values if isinstance(first[0], Row) else None)
    notice(f"{path} holds objects one after the other instead of an array, and was read as such")
    yield from first
    yield from rows


def _no_array(path: Path, values: Mapping[str, Any] | None = None) -> DataError:
    lists = [name for name, value in (values or {}).items() if isinstance(value, list)]
    if not any(_first_lines(path)):
        return DataError(
            f"{path} is empty",
            "name a file with at least a few dozen rows",
            code="no_rows",
            path=str(path),
        )
    hint = "write [{...}, {...}], or name it .jsonl if it holds one object a line"
    if lists:
        hint = f"write the list {shown(lists[0])} alone into a file, if that holds the rows"
    return DataError(
        f"{path} holds no JSON array",
        hint,
        code="no_array",
        path=str(path),
        key=lists[0] if lists else None,
    )


def _lines_of(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    commas = 0
    with open_utf8(path, notice) as file:
        for number, line in enumerate(lines(file), 1):
            if text := line.strip():
                row = _json_row(text, f"{path}:{number}")
                if isinstance(row, BadRow) and text.endswith(b","):
                    bare = _json_row(text[:-1], f"{path}:{number}")
                    commas += isinstance(bare, Row)
                    row = bare if isinstance(bare, Row) else row
                yield row
    if commas:
        end = quantity(commas, f"line of {path} ends", f"lines of {path} end")
        notice(f"{end} in a comma, which was ignored")


def _json_row(line: bytes, source: str) -> Row | BadRow:
    if len(line) > MAX_ROW_BYTES:
        return too_long(source)
    try:
        value = DECODER.decode(line.decode())
    except UnicodeDecodeError:
        return not_utf8(source)
    except (ValueError, RecursionError) as error:
        remedy = "complete the line or delete it"
        if isinstance(error, json.JSONDecodeError) and not error.pos:
            start = shown(line[:_BEGINNING].decode("utf-8", "replace"))
            remedy = 'write an object on each line, such as {"text": "..."}, and delete other lines'
            reason = f"is no JSON (it begins with {start})"
            return BadRow(source, reason, remedy, "not_json", {"value": start})
        reason, fields = f"is no JSON ({what(error)})", {"reason": what(error)}
        if line.startswith(b"{'"):
            remedy = "write it with double quotes, as json.dumps does"
            return BadRow(source, reason, remedy, "python_not_json", fields)
        return BadRow(source, reason, remedy, "broken_json", fields)
    except RepeatedKeyError as error:
        return repeated(error, source)
    return object_row(value, source, escaped=b"\\u" in line)
