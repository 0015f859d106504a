"""Files and folders that are whole under their name or absent, whenever a process or power ends."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A hidden name next to `path` to write to; at the end of the block the file replaces `path`.

    Where the block fails, what was written is deleted and `path` stays as it was. Processes that
    write the same file at the same time do so under names of their own.
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
    """An empty hidden folder next to `path`, which at the end of the block replaces `path`.

    Where the block fails, the folder is deleted and `path` stays as it was. What a process that was
    killed left there is deleted by the next one.
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
    """Writes JSON Lines atomically, one row in memory at a time."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_atomic(path: Path, text: str) -> None:
    """Writes the whole file or nothing."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_directory(new: Path, target: Path) -> None:
    """Puts a finished folder in place of another; under that name it is whole or absent."""
    for path in new.rglob("*"):
        if path.is_file():  # or a power cut could leave the name and lose the numbers
            _sync(path)
    old = _set_aside(target)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Removes a folder, which under that name is whole or gone even after a kill."""
    shutil.rmtree(_set_aside(path), ignore_errors=True)


def _set_aside(path: Path) -> Path:
    """Renames a folder, if it is there, to a hidden name, which this returns."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.replace(old)
    return old


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
