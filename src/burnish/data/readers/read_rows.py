"""Raw rows of a file, one at a time: JSON Lines, JSON array, CSV, Parquet, Arrow or plain text.

A line that cannot be used comes back as a `BadRow` and the reading goes on; only a file that
cannot be used raises. A million rows take the memory of one (of one batch for Parquet). What a
file is read as is decided by its name; Parquet, Arrow and what is compressed by the first bytes.
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
    ".zip": ("an archive", "unpack it, and name one file in it"),
    ".tar": ("an archive", "unpack it, and name one file in it"),
    ".tgz": ("an archive", "unpack it, and name one file in it"),
    ".zst": ("compressed by Zstandard", "unpack it with `zstd -d`"),
    ".7z": ("an archive", "unpack it, and name one file in it"),
    ".yaml": ("a recipe and not a file of rows", "name the file that its data.train names"),
    ".yml": ("a recipe and not a file of rows", "name the file that its data.train names"),
    ".pdf": ("a PDF", "write its text into a .txt file"),
    ".docx": ("a Word document", "save it as plain text, .txt"),
    ".pkl": ("a Python pickle, which may run code when it is read", "write it as Parquet"),
}


def read_rows(path: Path, notice: Notice = ignore_notice) -> Iterator[Row | BadRow]:
    """Every row of the file in order; the file is opened when the first row is asked for.

    `notice` hears a sentence where the file is read otherwise than its name says.

    Raises:
        DataError: the file is missing, a folder, of an unknown kind or unreadable as a whole.
    """
    if is_url(str(path)):
        raise DataError(
            f"{path} is an address and not a file", DOWNLOAD, code="not_a_path", path=str(path)
        )
    path = expanded(path)
    if path.is_dir():
        raise DataError(
            f"{path} is a folder", "name one file in it", code="is_folder", path=str(path)
        )
    if not path.exists():
        raise _missing(path)
    if not path.is_file():
        raise DataError(
            f"{path} is a device or a pipe",
            "name a file of rows",
            code="not_a_file",
            path=str(path),
        )
    return _guarded(path, _reader(path), notice)


def _reader(path: Path) -> RowReader | None:
    """The reader of a file by its name; None where only its first bytes can tell.

    Raises:
        DataError: no reader reads files with such a name.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in _COMPRESSED
    kind = (suffixes[-2:-1] if packed else suffixes[-1:]) or [""]
    reader = _READERS.get(kind[0])
    if packed and reader in _BY_START.values():
        raise DataError(
            f"{path} is compressed as a whole", "unpack it", code="compressed", path=str(path)
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
        f"{path} is of no known kind ({path.suffix or 'no ending'})",
        f"use {kinds}",
        code="unknown_file_kind",
        path=str(path),
        suffix=path.suffix,
    )


def _missing(path: Path) -> DataError:
    near = similar_file(path)
    hint = f"did you mean {near}?" if near else "name a file of rows"
    return DataError(
        f"there is no file {path}",
        hint,
        code="file_missing",
        path=str(path),
        closest=str(near) if near else None,
    )


def _check_start(path: Path, reader: RowReader, start: bytes) -> None:
    """
    Raises:
        DataError: the file begins like another, which was saved in its place or under its name.
    """
    if start.startswith(_POINTER):
        raise DataError(
            f"{path} is a Git LFS pointer, not the file itself",
            "run `git lfs pull`",
            code="git_lfs_pointer",
            path=str(path),
        )
    if reader is plain_text:  # documents may be of any kind
        return
    if _PAGE.match(start):
        seen = f"{path} is a web page, not a file of rows"
        raise DataError(
            seen,
            "download the file itself, and look at the page in a browser",
            code="web_page",
            path=str(path),
        )
    if reader in (csv_rows, tsv_rows) and (found := _JSON.match(start)):
        ending = ".json" if found[1] else ".jsonl"
        raise DataError(
            f"{path} holds JSON and no table",
            f"name it {path.stem}{ending}",
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
            f"{path} cannot be read ({why})",
            "check the file and its rights",
            code="file_unreadable",
            path=str(path),
            reason=why,
        ) from error
    except DECOMPRESSION_ERRORS as error:
        what = " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be unpacked ({what})",
            "write the file again",
            code="broken_file",
            path=str(path),
            reason=what,
        ) from error
