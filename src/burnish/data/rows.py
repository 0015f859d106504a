"""Raw rows of a file, one at a time: JSON Lines, JSON array, CSV, Parquet or plain text.

A line that cannot be used comes back as a `BadRow` and the reading goes on; only a file that
cannot be used raises. A million rows take the memory of one (of one batch for Parquet).
"""

import codecs
import csv
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from burnish.errors import DataError

MAX_ROW_BYTES = 1_000_000
_CHUNK = 1 << 20
_LONGEST_JSON = 64 * MAX_ROW_BYTES  # an array item past this is taken for a broken file
_PARQUET_BATCH = 512
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file as it stands there. `source` is `file:line` (Parquet: `file:row`)."""

    values: Mapping[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used. `source reason` reads as a sentence, `remedy` as an order."""

    source: str
    reason: str
    remedy: str


RowReader = Callable[[Path], Iterator[Row | BadRow]]


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """Every row of the file in order; the file is opened when the first row is asked for.

    Raises:
        DataError: the file is missing, a folder, of an unknown kind or unreadable as a whole.
    """
    reader = _READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"{path} is a folder", "name one file in it")
    if not path.exists():
        raise _missing(path)
    if not path.is_file():
        raise DataError(f"{path} is a device or a pipe", "name a file of rows")
    if reader is None:
        kinds = ", ".join(_READERS)
        raise DataError(
            f"{path} is of no known kind ({path.suffix or 'no ending'})", f"use {kinds}"
        )
    return _guarded(path, reader)


def _missing(path: Path) -> DataError:
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {path.parent / near[0]}" if near else "name a file of rows"
    return DataError(f"there is no file {path}", hint)


def _guarded(path: Path, reader: RowReader) -> Iterator[Row | BadRow]:
    try:
        yield from reader(path)
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read ({why})", "check the file and its rights"
        ) from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines without a byte order mark; one past the limit comes cut there, its rest is skipped."""
    first = True
    while line := file.readline(MAX_ROW_BYTES + 1):
        rest = line
        while len(rest) > MAX_ROW_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_ROW_BYTES + 1)
        yield line.removeprefix(codecs.BOM_UTF8) if first else line
        first = False


def _too_long(source: str) -> BadRow:
    return BadRow(source, f"is longer than {MAX_ROW_BYTES:,} bytes", "shorten or split it")


def _not_utf8(source: str) -> BadRow:
    return BadRow(source, "is not UTF-8", "save the file as UTF-8")


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if text := line.strip():
                yield _json_row(text, f"{path}:{number}")


def _json_row(line: bytes, source: str) -> Row | BadRow:
    if len(line) > MAX_ROW_BYTES:
        return _too_long(source)
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return _not_utf8(source)
    except (ValueError, RecursionError) as error:
        return BadRow(source, f"is no JSON ({_what(error)})", "complete the line or delete it")
    return _object(value, source, escaped=b"\\u" in line)


def _what(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _object(value: Any, source: str, *, escaped: bool) -> Row | BadRow:
    if not isinstance(value, dict):
        name = {list: "a list", str: "a string", type(None): "null"}.get(type(value), "a value")
        return BadRow(source, f"is {name} and not an object", 'write it as {"field": value}')
    # An escape can write half a character, which no encoder takes later on.
    if escaped and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        return BadRow(source, "holds half of an escaped character", "mend its \\ud800 escapes")
    return Row(value, source)


def _json_array(path: Path) -> Iterator[Row | BadRow]:
    with path.open(encoding="utf-8-sig") as file:
        try:
            yield from _Array(path, file).rows()
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8", "save the file as UTF-8") from error


class _Array:
    """Reads a JSON array item by item through a window that moves along the file."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self.file = file
        self.text = ""
        self.at = 0
        self.line = 1

    def rows(self) -> Iterator[Row | BadRow]:
        if self._peek() != "[":
            hint = "write [{...}, {...}], or name it .jsonl if it holds one object a line"
            raise DataError(f"{self.path} holds no JSON array", hint)
        self.at += 1
        if self._peek() == "]":
            return
        while True:
            self._peek()
            yield self._row()
            mark = self._peek()
            if mark == "]":
                return
            if mark != ",":
                raise self._broken("a comma or ] is missing")
            self.at += 1

    def _row(self) -> Row | BadRow:
        source = f"{self.path}:{self.line}"
        value, end = self._value()
        raw = self.text[self.at : end]
        self.line += raw.count("\n")
        self.at = end
        if len(raw) > MAX_ROW_BYTES or len(raw.encode()) > MAX_ROW_BYTES:
            return _too_long(source)
        return _object(value, source, escaped="\\u" in raw)

    def _value(self) -> tuple[Any, int]:
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._grow():
                    raise self._broken(_what(error)) from error
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


def _csv(path: Path) -> Iterator[Row | BadRow]:
    # The limit is the process's: the default of 131,072 is less than a row may have.
    csv.field_size_limit(MAX_ROW_BYTES)
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{path} is UTF-16 and not UTF-8", "save the file as UTF-8")
        file.seek(0)
        lines = _CountedLines(file)
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise DataError(f"{path} has no readable header ({error})", "mend line 1") from error
        _check_header(path, header)
        while True:
            source = f"{path}:{reader.line_num + 1}"
            lines.size = 0
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                broken = BadRow(source, f"is no CSV ({error})", "close and double its quotes")
                yield _too_long(source) if lines.size > MAX_ROW_BYTES else broken
                continue
            if lines.size > MAX_ROW_BYTES:
                yield _too_long(source)
            elif fields:
                yield _csv_row(header, fields, source)


class _CountedLines:
    """Decoded lines; `size` counts their bytes, since the cut of a long line must not pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = _lines(file)
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.size += len(line.rstrip(b"\r\n"))
        return line.decode("utf-8", "surrogateescape")


def _check_header(path: Path, header: list[str]) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns named {twice[0]!r}", "rename one of them")
    if _SURROGATE.search("".join(header)):
        raise DataError(f"the header of {path} is not UTF-8", "save the file as UTF-8")
    if len(header) == 1 and re.search(r"[;|\t]", header[0]):
        seen = f"the header of {path} is the one column {header[0]!r}"
        raise DataError(seen, "save the file with commas between its columns")


def _csv_row(header: list[str], fields: list[str], source: str) -> Row | BadRow:
    if any(_SURROGATE.search(field) for field in fields):
        return _not_utf8(source)
    if len(fields) != len(header):
        reason = f"has {len(fields)} fields where the header has {len(header)}"
        return BadRow(source, reason, "put quotes around fields that hold commas")
    return Row(dict(zip(header, fields, strict=True)), source)


def _parquet(path: Path) -> Iterator[Row | BadRow]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for index in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(batch.slice(index, 1), f"{path}:{number}")
    except pa.ArrowException as error:
        what = " ".join(str(error).split())
        raise DataError(
            f"{path} is no readable Parquet ({what})", "write the file again"
        ) from error


def _parquet_row(batch: Any, source: str) -> Row | BadRow:
    if batch.nbytes > MAX_ROW_BYTES:
        return _too_long(source)
    try:
        return Row(batch.to_pylist()[0], source)
    except UnicodeDecodeError:
        return _not_utf8(source)


def _plain_text(path: Path) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:
        block, start = bytearray(), 0
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                yield from _document(block, f"{path}:{start}")
                block = bytearray()
                continue
            start = start if block else number
            if len(block) <= MAX_ROW_BYTES:
                block += line
        yield from _document(block, f"{path}:{start}")


def _document(block: bytearray, source: str) -> Iterator[Row | BadRow]:
    if len(block) > MAX_ROW_BYTES:
        yield _too_long(source)
    elif block:
        try:
            yield Row({"text": block.decode().strip()}, source)
        except UnicodeDecodeError:
            yield _not_utf8(source)


_READERS: dict[str, RowReader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _plain_text,
}
