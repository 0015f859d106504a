"""Objects of JSON one by one, of an array or in a row, and what of them is a row."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.data.formats import KNOWN
from burnish.data.readers.encoding import open_utf8
from burnish.data.row import MAX_ROW_BYTES, SURROGATE, BadRow, Notice, Row, too_long
from burnish.errors import DataError, shown

_CHUNK = 1 << 20
_LONGEST_JSON = 64 * MAX_ROW_BYTES  # an item past this is taken for a broken file
_SPACE = re.compile(r"[ \t\r\n]*")


class RepeatedKeyError(Exception):
    """One object has a key twice with different values, and the second would replace the first.

    Not a ValueError, which says that the text is no JSON.
    """


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise RepeatedKeyError(key)
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object_of)
FORGIVING = json.JSONDecoder()


def what(error: Exception) -> str:
    """Why a text is no JSON."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def repeated(error: RepeatedKeyError, source: str) -> BadRow:
    """The row of an object with a key twice."""
    reason = f"has the key {shown(error.args[0])} twice in one object, with different values"
    return BadRow(source, reason, "keep one of them", "repeated_key", {"key": str(error.args[0])})


def object_row(value: Any, source: str, *, escaped: bool) -> Row | BadRow:
    """The row of a value; `escaped` says that its text had escapes."""
    if not isinstance(value, dict):
        name = {list: "a list", str: "a string", type(None): "null"}.get(type(value), "a value")
        if isinstance(value, str) and value.lstrip().startswith("{"):
            reason, remedy = "is a string with an object inside", "write the object without quotes"
            return BadRow(source, reason, remedy, "quoted_object")
        first = value[0] if isinstance(value, list) and value else None
        turns = isinstance(first, dict) and ("role" in first or "from" in first)
        field = "messages" if turns else "field"
        remedy = f'write it as {{"{field}": {"[...]" if turns else "value"}}}'
        return BadRow(
            source,
            f"is {name} and not an object",
            remedy,
            "not_object",
            {"type": type(value).__name__},
        )
    # An escape can write half a character, which no encoder takes later on.
    if escaped and SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        reason, remedy = "contains half of an escaped character", "fix its \\ud800 escapes"
        return BadRow(source, reason, remedy, "half_character")
    return Row(value, source)


class Values:
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
                raise DataError(
                    f"{self.path} is not UTF-8",
                    "save the file as UTF-8",
                    code="not_utf8",
                    path=str(self.path),
                ) from error

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
        if isinstance(value, RepeatedKeyError):
            return repeated(value, source)
        if len(raw) > MAX_ROW_BYTES or len(raw.encode()) > MAX_ROW_BYTES:
            return too_long(source)
        return object_row(value, source, escaped="\\u" in raw)

    def _value(self) -> tuple[Any, int]:
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except RepeatedKeyError as error:
                value = error
                try:
                    _, end = FORGIVING.raw_decode(self.text, self.at)
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
            raise self._broken(what(error)) from error

    def _grow(self) -> bool:
        """Drops what was read and doubles the rest, so that long items cost linear time."""
        self.text, self.at = self.text[self.at :], 0
        if len(self.text) > _LONGEST_JSON:
            return False
        more = self.file.read(max(_CHUNK, len(self.text)))
        self.text += more
        return bool(more)

    def _broken(self, why: str) -> DataError:
        return DataError(
            f"{self.path} is not valid JSON after line {self.line} ({why})",
            "fix the file",
            code="broken_json",
            path=str(self.path),
            line=self.line,
            reason=why,
        )
