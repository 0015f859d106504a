"""Rows of JSON: an object on each line, an array of objects, or objects one after the other.

Which of them a file holds is read from its first lines, whatever its name says.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from burnish.data.csv_files import is_table
from burnish.data.encoding import lines, open_utf8
from burnish.data.row import MAX_ROW_BYTES, SURROGATE, BadRow, Notice, Row, not_utf8, too_long
from burnish.data.shapes import KNOWN
from burnish.errors import DataError, shown

_CHUNK = 1 << 20
_LINES_SEEN = 20
_LONGEST_JSON = 64 * MAX_ROW_BYTES  # an item past this is taken for a broken file
_BEGINNING = 40  # bytes of a line that show what it is
_SPACE = re.compile(r"[ \t\r\n]*")


class _RepeatedKeyError(Exception):
    """One object has a key twice with different values, and the second would replace the first.

    Not a ValueError, which says that the text is no JSON.
    """


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise _RepeatedKeyError(key)
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object_of)
_FORGIVING = json.JSONDecoder()


def json_lines(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """The rows of a `.jsonl` file.

    Raises:
        DataError: it holds no line of JSON, or an array or objects over several lines that are
            broken.
    """
    if seen := other_kind(path):
        kind, ending = seen
        raise DataError(f"{path} is {kind}, not JSON Lines", f"name it {ending}")
    first, second = _first_lines(path)
    if (key := _key_of_rows(path, first, second)) is not None:
        return _Values(path, notice, is_array=False).under(key)
    if first.startswith(b"[") and not (second and isinstance(_parsed(first), list)):
        notice(f"{path} holds one JSON array instead of one object per line, and was read as one")
        return _Values(path, notice, is_array=True).rows()
    if _is_series(first, second):
        notice(f"{path} does not hold one object on each line, and was read object by object")
        return _Values(path, notice, is_array=False).rows()
    return _lines_of(path, notice)


def json_array(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """The rows of a `.json` file.

    Raises:
        DataError: it is neither an array nor several objects, or is broken.
    """
    if seen := other_kind(path):
        kind, ending = seen
        raise DataError(f"{path} holds no JSON array but {kind}", f"name it {ending}")
    first, second = _first_lines(path)
    if (key := _key_of_rows(path, first, second)) is not None:
        return _Values(path, notice, is_array=False).under(key)
    if first.startswith(b"["):
        return _Values(path, notice, is_array=True).rows()
    if not first.startswith(b"{"):
        raise _no_array(path)
    if second.startswith(b"{") and isinstance(_parsed(first), dict):
        notice(f"{path} holds an object on each line instead of one array, and was read as such")
        return _lines_of(path, notice)
    return _several(path, _Values(path, notice, is_array=False).rows(), notice)


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
    lists = _Values(path, lambda _: None, is_array=False).lists()
    names = [shown(name) for name in lists or ()]
    if lists is None or not names or KNOWN & {name.lower() for name in lists}:
        return None
    if len(names) > 1:
        raise DataError(
            f"{path} holds no JSON array but an object with the lists {', '.join(names)}",
            "write each list into a file of its own, and name them as data.train and data.test",
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
        _, end = _FORGIVING.raw_decode(text)
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
        return DataError(f"{path} is empty", "name a file with at least a few dozen rows")
    hint = "write [{...}, {...}], or name it .jsonl if it holds one object a line"
    if lists:
        hint = f"write the list {shown(lists[0])} alone into a file, if that holds the rows"
    return DataError(f"{path} holds no JSON array", hint)


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
        notice(f"{commas} lines of {path} end in a comma, which was passed over")


def _json_row(line: bytes, source: str) -> Row | BadRow:
    if len(line) > MAX_ROW_BYTES:
        return too_long(source)
    try:
        value = _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        return not_utf8(source)
    except (ValueError, RecursionError) as error:
        remedy = "complete the line or delete it"
        if isinstance(error, json.JSONDecodeError) and not error.pos:
            start = f"it begins with {shown(line[:_BEGINNING].decode('utf-8', 'replace'))}"
            remedy = 'write an object on each line, such as {"text": "..."}, and delete other lines'
            return BadRow(source, f"is no JSON ({start})", remedy, "no_json")
        if line.startswith(b"{'"):
            remedy = "write it with double quotes, as json.dumps does"
        return BadRow(source, f"is no JSON ({_what(error)})", remedy, "json")
    except _RepeatedKeyError as error:
        return _repeated(error, source)
    return _object(value, source, escaped=b"\\u" in line)


def _what(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _repeated(error: _RepeatedKeyError, source: str) -> BadRow:
    reason = f"has the key {shown(error.args[0])} twice in one object, with different values"
    return BadRow(source, reason, "keep one of them", "repeated_key")


def _object(value: Any, source: str, *, escaped: bool) -> Row | BadRow:
    if not isinstance(value, dict):
        name = {list: "a list", str: "a string", type(None): "null"}.get(type(value), "a value")
        if isinstance(value, str) and value.lstrip().startswith("{"):
            reason, remedy = "is a string with an object inside", "write the object without quotes"
            return BadRow(source, reason, remedy, "no_object")
        first = value[0] if isinstance(value, list) and value else None
        turns = isinstance(first, dict) and ("role" in first or "from" in first)
        field = "messages" if turns else "field"
        remedy = f'write it as {{"{field}": {"[...]" if turns else "value"}}}'
        return BadRow(source, f"is {name} and not an object", remedy, "no_object")
    # An escape can write half a character, which no encoder takes later on.
    if escaped and SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        reason, remedy = "holds half of an escaped character", "mend its \\ud800 escapes"
        return BadRow(source, reason, remedy, "surrogate")
    return Row(value, source)


class _Values:
    """Reads objects one by one, of an array or in a row, through a window along the file."""

    def __init__(self, path: Path, notice: Notice, *, is_array: bool) -> None:
        self.path = path
        self.notice = notice
        self.is_array = is_array
        self.text = ""
        self.at = 0
        self.line = 1

    def rows(self) -> Iterator[Row | BadRow]:
        with io.TextIOWrapper(open_utf8(self.path, self.notice), "utf-8-sig") as self.file:
            try:
                yield from self._array() if self.is_array else self._series()
            except UnicodeDecodeError as error:
                raise DataError(f"{self.path} is not UTF-8", "save the file as UTF-8") from error

    def lists(self) -> dict[str, None] | None:
        """The keys of the one object in the file whose values are lists of objects, but no turns.

        None where there is more than this object, it is broken, or it is a row.
        """
        found: dict[str, None] = {}
        with io.TextIOWrapper(open_utf8(self.path), "utf-8-sig") as self.file:
            try:
                for key in self._keys():
                    if key.lower() in KNOWN:
                        return None
                    if self._peek() != "[":
                        self._value_end()
                        continue
                    for at, item in enumerate(self._items()):
                        values = item.values if isinstance(item, Row) else {}
                        if at == 0 and values and not {"role", "from"} & values.keys():
                            found[key] = None
                return None if self._peek() else found
            except (DataError, UnicodeDecodeError):
                return None

    def under(self, key: str) -> Iterator[Row | BadRow]:
        """The objects in the list of that key."""
        self.notice(f"{self.path} holds one object, and the list {shown(key)} in it was read")
        with io.TextIOWrapper(open_utf8(self.path, self.notice), "utf-8-sig") as self.file:
            for name in self._keys():
                if name == key:
                    yield from self._items()
                else:
                    self._value_end()

    def _keys(self) -> Iterator[str]:
        """Each key of an object; whoever takes it reads its value before the next."""
        self._peek()
        self.at += 1
        while self._peek() == '"':
            key, self.at = self._value()
            if self._peek() != ":":
                raise self._broken("a colon is missing")
            self.at += 1
            self._peek()
            yield str(key)
            mark = self._peek()
            if mark not in (",", "}"):
                raise self._broken("a comma or } is missing")
            self.at += mark == ","
        if self._peek() != "}":
            raise self._broken("a key or } is missing")
        self.at += 1

    def _value_end(self) -> None:
        _, end = self._value()
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def _array(self) -> Iterator[Row | BadRow]:
        yield from self._items()
        if self._peek():
            raise self._broken("there is more behind the closing ]")

    def _items(self) -> Iterator[Row | BadRow]:
        self._peek()
        self.at += 1
        while self._peek() != "]":  # also behind a last comma
            yield self._row()
            mark = self._peek()
            if mark not in (",", "]"):
                raise self._broken("a comma or ] is missing")
            self.at += mark == ","
        self.at += 1

    def _series(self) -> Iterator[Row | BadRow]:
        while self._peek():
            yield self._row()
            mark = self._peek()  # it moves on, so before the sum
            self.at += mark == ","

    def _row(self) -> Row | BadRow:
        source = f"{self.path}:{self.line}"
        value, end = self._value()
        raw = self.text[self.at : end]
        self.line += raw.count("\n")
        self.at = end
        if isinstance(value, _RepeatedKeyError):
            return _repeated(value, source)
        if len(raw) > MAX_ROW_BYTES or len(raw.encode()) > MAX_ROW_BYTES:
            return too_long(source)
        return _object(value, source, escaped="\\u" in raw)

    def _value(self) -> tuple[Any, int]:
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except _RepeatedKeyError as error:
                value = error
                try:
                    _, end = _FORGIVING.raw_decode(self.text, self.at)
                except (ValueError, RecursionError) as broken:
                    self._grow_or_fail(broken)
                    continue
            except (ValueError, RecursionError) as error:
                self._grow_or_fail(error)
                continue
            # A number may go on past the window; anything may be followed by nothing.
            if end < len(self.text) or not self._grow():
                return value, end

    def _peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            end = match.end() if match else self.at
            self.line += self.text.count("\n", self.at, end)
            self.at = end
            if end < len(self.text):
                return self.text[end]
            if not self._grow():
                return ""

    def _grow_or_fail(self, error: Exception) -> None:
        if isinstance(error, RecursionError) or not self._grow():
            raise self._broken(_what(error)) from error

    def _grow(self) -> bool:
        """Drops what was read and doubles the rest, so that long items cost linear time."""
        self.text, self.at = self.text[self.at :], 0
        if len(self.text) > _LONGEST_JSON:
            return False
        more = self.file.read(max(_CHUNK, len(self.text)))
        self.text += more
        return bool(more)

    def _broken(self, why: str) -> DataError:
        return DataError(f"{self.path} is no JSON after line {self.line} ({why})", "mend the file")
