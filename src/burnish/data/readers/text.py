"""Reads plain text files, whose documents are separated by empty lines."""

from collections.abc import Iterator
from pathlib import Path

from burnish.data.readers.encoding import lines, open_utf8
from burnish.data.row import MAX_ROW_BYTES, BadRow, Notice, Row, not_utf8, too_long


def plain_text(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """Yields each block of lines as a document in the field `text`."""
    with open_utf8(path, notice) as file:
        block, start = bytearray(), 0
        for number, line in enumerate(lines(file), 1):
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
        yield too_long(source)
    elif block:
        try:
            yield Row({"text": block.decode().strip()}, source)
        except UnicodeDecodeError:
            yield not_utf8(source)
