"""The data folder on its disk: nobody else may read it, and what frees room works on a full one."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.exc import DBAPIError

_OTHERS = 0o077
_FULL = {errno.ENOSPC, errno.EDQUOT}
# SQLite's names, and PostgreSQL's state.
_FULL_DATABASE = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "53100"}


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or its cause, means that the disk or the user's quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, DBAPIError):
            result = {getattr(error.orig, n, None) for n in ("sqlite_errorname", "sqlstate")}
            if result & _FULL_DATABASE:
                return True
        error = error.__cause__
    return False


def keep_private() -> None:
    """Make new files of this process and its children readable by their owner only."""
    os.umask(_OTHERS)


def make_private(folder: Path, *below: str) -> int:
    """Remove the access of all other users to the folder and to everything below these names.

    Returns:
        How many files and folders others had rights to.
    """
    paths = [folder, *(path for name in below for path in _all(folder / name))]
    return sum(map(remove_other_access, paths))


def _all(path: Path) -> Iterator[Path]:
    """The path, and all that is below it; links lead elsewhere."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for top, folders, files in os.walk(path):
            yield from (Path(top) / name for name in [*folders, *files])


def remove_other_access(path: Path) -> bool:
    """Remove the access of other users, and return whether there was any."""
    try:
        mode = path.lstat().st_mode
        if path.is_symlink() or not mode & _OTHERS:
            return False
        path.chmod(mode & 0o7777 & ~_OTHERS)
    except OSError:  # it is gone, or another user's
        return False
    return True


class Reserve:
    """Room that is kept on a disk, and given up where the disk is full, so that rows of what is
    deleted can be written."""

    _SIZE, _LEAST = 1 << 19, 1 << 16

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self) -> None:
        """Takes as much as is left, and nothing where that is too little to be of use."""
        size = self._SIZE
        while size >= self._LEAST and not self.path.exists():
            try:
                with self.path.open("xb") as file:
                    file.write(bytes(size))
                    file.flush()
                    os.fsync(file.fileno())
            except FileExistsError:  # another process of this folder was quicker
                return
            except OSError:
                self.path.unlink(missing_ok=True)
                size //= 2

    def give_up(self) -> bool:
        """Whether there was any."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True
