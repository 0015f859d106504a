"""Bytes on disk by their sha256: written whole or not at all, and never under a client's name."""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from burnish.serving.state.disk import Reserve

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20
# Bytes that nobody has asked to keep for so long, in seconds, belong to a process that was killed.
_STALE = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ReceivedBlob:
    """Bytes that are on the disk and not kept yet: `path` is their temporary name."""

    path: Path
    sha256: str
    size: int


class TooLongError(Exception):
    """More bytes came than are allowed."""


class BlobStore:
    """A folder of bytes.

    What a row is to refer to is received first, then kept inside the transaction that writes the
    row, while nobody removes anything: see `files.keep` and `files.release`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.reserve = Reserve(folder.with_name("reserve"))
        self.reserve.keep()

    def receive(self, pieces: Iterable[bytes], limit: int | None = None) -> ReceivedBlob:
        """Write a stream to disk under a temporary name; an interrupted stream leaves nothing
        behind.

        Raises:
            TooLongError: there are more than `limit` bytes.
        """
        path = self.folder / f".{secrets.token_hex(16)}.new"
        try:
            digest, size = _written(path, pieces, limit)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return ReceivedBlob(path, digest, size)

    def keep(self, received: ReceivedBlob) -> None:
        """Move received bytes to their final name; afterwards they survive a power failure."""
        target = self.path(received.sha256)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            _sync_folder(self.folder)
        received.path.replace(target)
        _sync_folder(target.parent)

    def drop(self, received: ReceivedBlob) -> None:
        """Delete received bytes that were not kept."""
        received.path.unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Return the path of the bytes with this hash."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is not a SHA-256 hash")
        return self.folder / sha256[:2] / sha256

    def read(self, sha256: str) -> Iterator[bytes]:
        """The bytes in pieces. They are opened at once, so a removal meanwhile does no harm."""
        return _pieces(self.path(sha256))

    def delete(self, sha256: str) -> None:
        """Delete the bytes with this hash."""
        self.path(sha256).unlink(missing_ok=True)

    def hashes(self) -> Iterator[str]:
        """Yield the hashes of all stored bytes, in no particular order."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            yield from (path.name for path in folder.iterdir())

    def drop_stale(self) -> None:
        """Delete what killed processes left half received."""
        for path in self.folder.glob(".*.new"):
            if path.stat().st_mtime < time.time() - _STALE:
                path.unlink(missing_ok=True)


def _written(path: Path, pieces: Iterable[bytes], limit: int | None) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in pieces:
            size += len(piece)
            if limit is not None and size > limit:
                raise TooLongError(f"more than {limit} bytes")
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def _pieces(path: Path) -> Iterator[bytes]:
    file = path.open("rb")

    def read() -> Iterator[bytes]:
        with file:
            while piece := file.read(_PIECE):
                yield piece

    return read()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
