"""Reads text files as UTF-8 with line feeds, whatever their encoding and compression.

UTF-8 is passed through. UTF-16, UTF-32, lines that end in a carriage return, and compression by
gzip, bzip2 or xz are recognised by the file's bytes, never by its name.
"""

import bz2
import codecs
import gzip
import io
import lzma
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from burnish.data.row import MAX_ROW_BYTES, Notice
from burnish.errors import DataError

DECOMPRESSION_ERRORS = (EOFError, zlib.error, lzma.LZMAError)
_SAMPLE = 1 << 16
_CHUNK = 1 << 18
_UNPACK: dict[bytes, Callable[..., BinaryIO]] = {
    b"\x1f\x8b": cast(Callable[..., BinaryIO], gzip.open),
    b"BZh": cast(Callable[..., BinaryIO], bz2.open),
    b"\xfd7zXZ\x00": cast(Callable[..., BinaryIO], lzma.open),
}
# The byte order mark of UTF-32 begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_WITHOUT_MARK = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
# Bytes that occur in text of a single-byte encoding.
_PRINTED = bytes((*b"\t\n\r\f", *range(0x20, 0x7F), *range(0x80, 0x100)))
_NO_TEXT = ("Cc", "Cn", "Co", "Cs")
_OTHER = "name a file of rows, such as JSON Lines or CSV"
# Binary files, recognised by their first bytes, and what to do with them.
_OTHER_FILES = {
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "save the sheet as CSV, or unpack it"),
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word file", "save the sheet as CSV"),
    b"%PDF": ("a PDF", "save its text as a .txt file"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard archive", "unpack it with `zstd -d`"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"\x89HDF": ("an HDF5 file", "write its rows as Parquet or JSON Lines"),
    b"PAR1": ("a Parquet file", "rename it to .parquet"),
    b"ARROW1": ("an Arrow file", "rename it to .arrow"),
    b"\x89PNG": ("a PNG image", _OTHER),
    b"\xff\xd8\xff": ("a JPEG image", _OTHER),
    b"GIF8": ("a GIF image", _OTHER),
    b"RIFF": ("an audio, video or image file", _OTHER),
    b"OggS": ("an audio or video file", _OTHER),
    b"fLaC": ("an audio file", _OTHER),
    b"ID3": ("an MP3 file", _OTHER),
    b"\x7fELF": ("an executable program", _OTHER),
    b"GGUF": ("a GGUF model", _OTHER),
}
# Control characters that text does not contain; those of layout and terminals are left out.
_CONTROLS = bytes({*range(32), 127} - set(b"\b\t\n\v\f\r\x1b"))
_START, _FEWEST_CONTROLS = 1024, 4


def ignore_notice(_: str) -> None:
    """Ignores a notice about how a file was read."""


def open_utf8(path: Path, notice: Notice = ignore_notice) -> BinaryIO:
    """Opens a text file as UTF-8 bytes; `notice` is called if it was converted.

    Raises:
        DataError: its first bytes are those of a binary file.
    """
    file = _decompressed(path, notice)
    try:
        sample = file.read(_SAMPLE)
        if b"\r" in sample and b"\n" not in sample:
            sample += file.read(MAX_ROW_BYTES)  # a long first line may hold one
        _check_kind(path, sample)
        encoding = _encoding(sample)
        if not encoding and _is_binary(sample):
            raise DataError(f"{path} is not a text file", _OTHER, code="not_text", path=str(path))
        text = (_decoded(sample, encoding) or "").encode("utf-8", "replace") if encoding else sample
        bare = b"\r" in text and b"\n" not in text
        file.seek(0)
    except BaseException:
        file.close()
        raise
    if encoding:
        notice(f"{path} is in {encoding.upper()[:6]} and was converted to UTF-8")
    if bare:
        notice(f"the lines of {path} end in a carriage return, which was read as a line end")
    if not encoding and not bare:
        return file
    return io.BufferedReader(_Recoded(path, file, encoding or "", bare), _CHUNK)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines without a byte order mark; a line beyond the size limit is cut, its rest skipped."""
    first = True
    while line := file.readline(MAX_ROW_BYTES + 1):
        rest = line
        while len(rest) > MAX_ROW_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_ROW_BYTES + 1)
        yield line.removeprefix(codecs.BOM_UTF8) if first else line
        first = False


def _decompressed(path: Path, notice: Notice) -> BinaryIO:
    file = path.open("rb")
    start = file.read(16)
    for magic, unpack in _UNPACK.items():
        if start.startswith(magic):
            file.close()
            notice(f"{path} is compressed and was decompressed while reading")
            return unpack(path)
    file.seek(0)
    return file


def _check_kind(path: Path, sample: bytes) -> None:
    for magic, (kind, remedy) in _OTHER_FILES.items():
        is_clear = not magic.isalnum() or 0 in sample  # a table may begin with the column ID3
        if sample.startswith(magic) and is_clear:
            raise DataError(
                f"{path} is {kind}, not a text file",
                remedy,
                code="not_text",
                path=str(path),
                found=kind,
            )


def _is_binary(sample: bytes) -> bool:
    """Whether the file begins with more control characters than text contains.

    A single one in a row is reported with its line instead.
    """
    for size in (64, _START):
        start = sample[:size]
        controls = len(start) - len(start.translate(None, _CONTROLS))
        share = 0.05 if _decoded(start, "utf-8") is not None else 0.02
        if controls >= _FEWEST_CONTROLS and controls > share * len(start):
            return True
    return False


def binary_kind(sample: bytes) -> str | None:
    """The kind of a file that begins with `sample`, if it cannot be plain text; else None."""
    if any(sample.startswith(magic) for magic in _UNPACK):
        return "compressed"
    for magic, (kind, _) in _OTHER_FILES.items():
        if sample.startswith(magic):
            return kind
    encoding = _encoding(sample)
    text = _decoded(sample, encoding or "utf-8")
    if encoding:
        return None if text is not None and _is_plain(text) else "a binary file"
    signs = len(sample.translate(None, _PRINTED))
    # One control character spoils only its row, and other bytes may be text in an old encoding.
    return "a binary file" if signs and (text is None or signs >= len(sample) / 4) else None


def _encoding(sample: bytes) -> str | None:
    """The encoding of a file that begins with `sample`; None for UTF-8 or an unknown encoding.

    Without a byte order mark, the sample must contain zero bytes, and decode to characters that
    occur in text.
    """
    for mark, name in _MARKS.items():
        if sample.startswith(mark):
            return name
    zeros = sample.count(0)
    if not zeros or (zeros < len(sample) / 4 and _decoded(sample, "utf-8") is not None):
        return None
    decoded = {name: _decoded(sample, name) for name in _WITHOUT_MARK}
    plain = {name: text for name, text in decoded.items() if text and _is_plain(text)}
    return max(plain, key=lambda name: sum(map(str.isascii, plain[name])), default=None)


def _decoded(sample: bytes, encoding: str) -> str | None:
    """The sample as text, without an incomplete character at its end; None if it is invalid."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def _is_plain(text: str) -> bool:
    return not any(unicodedata.category(char) in _NO_TEXT for char in set(text) - set("\t\r\n\f"))


class _Recoded(io.RawIOBase):
    """Converts another encoding to UTF-8, and carriage returns to line feeds.

    Text that cannot be decoded becomes invalid UTF-8, so that its row is reported.
    """

    def __init__(self, path: Path, file: BinaryIO, encoding: str, bare: bool) -> None:
        self._path = path
        self._file = file
        self._decoder = (
            codecs.getincrementaldecoder(encoding)("surrogatepass") if encoding else None
        )
        self._bare = bare
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        while not self._rest and not self._ended:
            self._rest = self._next()
        size = min(len(view), len(self._rest))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

    def _next(self) -> bytes:
        chunk = self._file.read(_CHUNK)
        self._ended = not chunk
        if self._decoder is not None:
            try:
                text = self._decoder.decode(chunk, self._ended)
                chunk = text.encode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                if not self._ended:
                    what = f"is not valid {error.encoding} ({error.reason})"
                    raise DataError(
                        f"{self._path} {what}",
                        "save the file as UTF-8",
                        code="not_utf8",
                        path=str(self._path),
                        encoding=error.encoding,
                    ) from error
                chunk = b"\xff"  # half a character at the end
        return chunk.replace(b"\r", b"\n") if self._bare else chunk
