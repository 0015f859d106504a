"""Text in any encoding and packing that can be told for sure, read as the same rows."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from burnish.data.readers.read_rows import BadRow, Row, read_rows
from burnish.errors import DataError
from tests.refused import refused

ROWS = [{"text": "où est-ce ?", "label": "a"}, {"text": "在哪里 一下", "label": "b"}] * 3
FILES = {
    "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "json": json.dumps(ROWS, ensure_ascii=False),
    "csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS),
    "tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
}
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def values(path: Path) -> list[object]:
    return [row.values if isinstance(row, Row) else row.reason for row in read_rows(path)]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, kind: str, encoding: str, end: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(FILES[kind].replace("\n", end).encode(encoding))
    heard: list[str] = []
    assert [getattr(row, "values", row) for row in read_rows(path, heard.append)] == ROWS
    odd = encoding[:5] != "utf-8", end == "\r" and kind != "json"
    assert len(heard) == sum(odd)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("packer", PACKERS)
def test_packed_files(tmp_path: Path, kind: str, packer: str) -> None:
    packed = PACKERS[packer](FILES[kind].encode())
    named, plain = tmp_path / f"a.{kind}.{packer}", tmp_path / f"a.{kind}"
    for path in (named, plain):  # the bytes decide, not the name
        path.write_bytes(packed)
        assert values(path) == ROWS


def test_documents_in_utf_16_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("first 一 one\r\n\r\nsecond".encode("utf-16-le"))
    assert values(path) == [{"text": "first 一 one"}, {"text": "second"}]


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "caf\xe9"}\n' * 9,  # Latin-1
        b'{"text": "a\x00b"}\n' + b'{"text": "ab"}\n' * 9,  # a stray byte of 0
        "在哪里".encode("gb18030") * 9,
    ],
)
def test_what_is_not_clear_is_not_guessed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    bad = [row for row in read_rows(path) if isinstance(row, BadRow)]
    assert bad
    assert {row.code for row in bad} <= {"not_utf8", "broken_json"}


BINARY = {
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
    "a JPEG image": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)),
    "an MP3 file": b"ID3\x03" + b"a title\n" * 300 + bytes(range(256)),
    "an executable program": b"\x7fELF\x02\x01\x01" + b"\x00" * 99,
    "noise": bytes((n * 7919 + n * n * 31) % 256 for n in range(3000)),
    "tar": b"weights.bin" + b"\x00" * 501 + bytes(range(256)),  # as tar writes
    "zeros": b"\x00" * 4096,
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz"])
@pytest.mark.parametrize("found", BINARY)
def test_what_is_no_text_is_told_once(tmp_path: Path, name: str, found: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(BINARY[found]) if name.endswith(".gz") else BINARY[found])
    fields = {"path": str(path)} | ({"found": found} if found.startswith(("a ", "an ")) else {})
    with refused("not_text", DataError, **fields):
        values(path)


def test_a_text_may_begin_like_a_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"ID3,text\n1,b\n")
    assert values(path) == [{"ID3": "1", "text": "b"}]


def test_half_a_character_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    whole = FILES["jsonl"].strip()
    path.write_bytes(whole.encode("utf-16") + b"\x41")
    assert values(path) == [*ROWS[:-1], "is not UTF-8"]
    path.write_bytes('{"text": "\ud83d"}\n{"text": "b"}'.encode("utf-16", "surrogatepass"))
    assert values(path) == ["is not UTF-8", {"text": "b"}]
    path.write_bytes('{"text": "b"}\n'.encode("utf-32") * 9 + b"\xff\xff\xff\xff")
    with refused("not_utf8", DataError, path=str(path), encoding="utf-32-le"):
        values(path)


def test_a_long_file_is_recoded_in_pieces(tmp_path: Path) -> None:
    rows = [{"text": f"é {n}"} for n in range(60_000)]
    path = tmp_path / "a.jsonl"
    path.write_text("\r".join(map(json.dumps, rows)), encoding="utf-16", newline="")
    assert values(path) == rows
