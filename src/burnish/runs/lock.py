"""The lock of a run: one process at a time trains or evaluates in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from burnish.errors import RunError
from burnish.runs.directory import RunDirectory


@contextmanager
def alone_in(directory: RunDirectory) -> Iterator[None]:
    """No other process learns or judges there meanwhile; a kill frees the run.

    Raises:
        RunError: one does.
    """
    try:
        with FileLock(directory.path / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise RunError(
            f"another process works on the run {directory.path}",
            "wait for it to end, or stop it, then continue with --resume",
            code="run_in_use",
            path=str(directory.path),
        ) from error
