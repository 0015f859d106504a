"""The cache folder, and cached hashes of model files.

<cache>/models/<entry>/   one finished model per folder
<cache>/wheels/           wheels that the user copied here, for a machine without a network
<cache>/hashes/           hashes of files outside of the cache
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from burnish.runs.atomic import write_atomic


def cache_folder() -> Path:
    """$BURNISH_CACHE, or `burnish` in the user's cache folder; it may not exist yet."""
    if chosen := os.environ.get("BURNISH_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"


def cached_sha256(files: Sequence[Path]) -> str:
    """The SHA-256 over all files, computed once for each (path, size, mtime)."""
    stats = [(str(file.resolve()), file.stat()) for file in files]
    stamp = json.dumps([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats])
    memory = cache_folder() / "hashes" / hashlib.sha256(stamp.encode()).hexdigest()
    if memory.is_file():
        return memory.read_text(encoding="ascii")
    digest = files_sha256(files)
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        write_atomic(memory, digest)
    return digest


def files_sha256(files: Sequence[Path]) -> str:
    """The SHA-256 over the bytes of all files, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
