"""Reads the raw rows of a file: JSON Lines, a JSON array, CSV, Parquet, Arrow or plain text.

A row that cannot be used is returned as a `BadRow`; only a file that cannot be used raises an
error. Rows are read one at a time (one batch at a time for Parquet), so memory stays constant. The
file's name determines its format; Parquet, Arrow and compressed files are recognised by their
first bytes.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from burnish.data.readers.arrow import ARROW, PARQUET, arrow, parquet
from burnish.data.readers.csv import csv_rows, tsv_rows
from burnish.data.readers.encoding import DECOMPRESSION_ERRORS, ignore_notice
from burnish.data.readers.json import json_array, json_lines
from burnish.data.readers.text import plain_text
from burnish.data.row import MAX_ROW_BYTES as MAX_ROW_BYTES
from burnish.data.row import BadRow as BadRow
from burnish.data.row import Notice, RowReader
from burnish.data.row import Row as Row
from burnish.errors import DataError
from burnish.recipe.paths import DOWNLOAD, expanded, is_url, similar_file

_READERS: dict[str, RowReader] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_array,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet,
    ".arrow": arrow,
    ".feather": arrow,
    ".txt": plain_text,
}
_COMPRESSED = (".gz", ".bz2", ".xz")
_BY_START = {PARQUET: parquet, ARROW: arrow}
_POINTER = b"version https://git-lfs"
_PAGE = re.compile(rb"\s*<(!doctype html|html)\b", re.IGNORECASE)
_JSON = re.compile(rb"\s*(\[\s*)?\{\s*\"[^\"\n]*\"\s*:")
_START = 1024
_EXCEL = ("an Excel workbook", "save its sheet as CSV")
_OTHER_KINDS = {
    ".xlsx": _EXCEL,
    ".xls": _EXCEL,
    ".ods": ("a spreadsheet", "save its sheet as CSV"),
    ".zip": ("an archive", "unpack it, and use one of its files"),
    ".tar": ("an archive", "unpack it, and use one of its files"),
    ".tgz": ("an archive", "unpack it, and use one of its files"),
    ".zst": ("compressed with Zstandard", "unpack it with `zstd -d`"),
    ".7z": ("an archive", "unpack it, and use one of its files"),
    ".yaml": ("a recipe, not a file of rows", "use the file in its data.train"),
    ".yml": ("a recipe, not a file of rows", "use the file in its data.train"),
    ".pdf": ("a PDF", "save its text as a .txt file"),
    ".docx": ("a Word document", "save it as plain text, .txt"),
    ".pkl": ("a Python pickle, which may run code when it is loaded", "save the rows as Parquet"),
}


def read_rows(path: Path, notice: Notice = ignore_notice) -> Iterator[Row | BadRow]:
    """Yields every row of the file in order; the file is opened when the first row is requested.

    `notice` is called with a sentence if the file was read differently than its name says.

    Raises:
        DataError: the file is missing, a folder, of an unsupported type, or unreadable.
    """
    if is_url(str(path)):
        raise DataError(f"{path} is a URL, not a file", DOWNLOAD, code="not_a_path", path=str(path))
    path = expanded(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder", "use a file in it", code="is_folder", path=str(path))
    if not path.exists():
        raise _missing(path)
    if not path.is_file():
        raise DataError(
            f"{path} is a device or a pipe",
            "use a file of rows",
            code="not_a_file",
            path=str(path),
        )
    return _guarded(path, _reader(path), notice)


def _reader(path: Path) -> RowReader | None:
    """The reader for a file name; None if only the first bytes of the file can tell.

    Raises:
        DataError: files with such a name are not supported.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in _COMPRESSED
    kind = (suffixes[-2:-1] if packed else suffixes[-1:]) or [""]
    reader = _READERS.get(kind[0])
    if packed and reader in _BY_START.values():
        raise DataError(
            f"{path} is a compressed Parquet or Arrow file",
            "decompress it",
            code="compressed",
            path=str(path),
        )
    if reader is not None:
        return reader
    seen, remedy = _OTHER_KINDS.get("".join(kind), ("", ""))
    if seen:
        raise DataError(
            f"{path} is {seen}", remedy, code="other_file_kind", path=str(path), found=seen
        )
    return None


def _of_unknown_kind(path: Path) -> DataError:
    kinds = ", ".join(_READERS)
    return DataError(
        f"{path} has an unsupported file type ({path.suffix or 'no extension'})",
        f"use {kinds}",
        code="unknown_file_kind",
        path=str(path),
        suffix=path.suffix,
    )


def _missing(path: Path) -> DataError:
    near = similar_file(path)
    hint = f"did you mean {near}?" if near else "check the path"
    return DataError(
        f"the file {path} does not exist",
        hint,
        code="file_missing",
        path=str(path),
        closest=str(near) if near else None,
    )


def _check_start(path: Path, reader: RowReader, start: bytes) -> None:
    """Checks the first bytes of a file against its name.

    Raises:
        DataError: the file is a Git LFS pointer, a web page, or JSON with the name of a table.
    """
    if start.startswith(_POINTER):
        raise DataError(
            f"{path} is a Git LFS pointer, not the file itself",
            "run `git lfs pull`",
            code="git_lfs_pointer",
            path=str(path),
        )
    if reader is plain_text:  # a document may contain anything
        return
    if _PAGE.match(start):
        seen = f"{path} is a web page, not a file of rows"
        raise DataError(
            seen,
            "open the page in a browser, and download the file itself",
            code="web_page",
            path=str(path),
        )
    if reader in (csv_rows, tsv_rows) and (found := _JSON.match(start)):
        ending = ".json" if found[1] else ".jsonl"
        raise DataError(
            f"{path} contains JSON, not a table",
            f"rename it to {path.stem}{ending}",
            code="other_file_kind",
            path=str(path),
            found="JSON",
        )


def _guarded(path: Path, reader: RowReader | None, notice: Notice) -> Iterator[Row | BadRow]:
    try:
        with path.open("rb") as file:
            start = file.read(_START).removeprefix(codecs.BOM_UTF8)
        by_start = (found for magic, found in _BY_START.items() if start.startswith(magic))
        reader = next(by_start, reader)
        if reader is None:
            raise _of_unknown_kind(path)
        _check_start(path, reader, start)
        yield from reader(path, notice)
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise DataError(
            f"cannot read {path} ({why})",
            "check the file and its permissions",
            code="file_unreadable",
            path=str(path),
            reason=why,
        ) from error
    except DECOMPRESSION_ERRORS as error:
        what = " ".join(str(error).split())
        raise DataError(
            f"cannot decompress {path} ({what})",
            "create the file again",
            code="broken_file",
            path=str(path),
            reason=what,
        ) from error
