"""The lock of a run: one process at a time trains or evaluates in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from burnish.errors import RunError
from burnish.runs.directory import RunDirectory


@contextmanager
def alone_in(directory: RunDirectory) -> Iterator[None]:
    """Lock the run against other processes within a `with` block; a killed process frees it.

    Raises:
        RunError: another process has locked it.
    """
    try:
        with FileLock(directory.path / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise RunError(
            f"another process is using the run {directory.path}",
            "wait until it ends, or stop it, then continue with --resume",
            code="run_in_use",
            path=str(directory.path),
        ) from error
