"""Atomic writing: after a kill or a power cut, a file or folder is complete or absent."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a hidden name next to `path`; after the `with` block this file replaces `path`.

    If the block fails, the file is deleted and `path` is unchanged. Processes that write the same
    file at the same time use different hidden names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty hidden folder next to `path`; after the `with` block it replaces `path`.

    If the block fails, the folder is deleted and `path` is unchanged. The next process deletes the
    folder of a killed one.
    """
    temporary = path.with_name(f".{path.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_directory(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines atomically, with one row in memory at a time."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_directory(new: Path, target: Path) -> None:
    """Replace a folder by a finished one; under its name it is complete or absent at any time."""
    for path in new.rglob("*"):
        if path.is_file():  # after a power cut, a file that was not synced could be empty
            _sync(path)
    old = _set_aside(target)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Delete a folder; under its name it is complete or absent at any time."""
    shutil.rmtree(_set_aside(path), ignore_errors=True)


def _set_aside(path: Path) -> Path:
    """Rename a folder, if it exists, to a hidden name, and return that name."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.replace(old)
    return old


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
