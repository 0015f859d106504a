"""The process of a job as its worker controls it, and the lock that allows only one at a time."""

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from burnish.errors import UserError

# The module that runs a job's recipe, and what it is told beside its worker and the recipe.
JobRunner = tuple[str, ...]
LOCAL: JobRunner = ("burnish.serving.jobs.run_recipe",)
# Seconds that an interrupted run gets to write its checkpoint.
PATIENCE = 120.0
_LOG = "process.log"


def ray_runner(address: str | None = None) -> JobRunner:
    """Return the runner for a Ray cluster: the one at the address, else at RAY_ADDRESS, else on
    this machine, else a new one.

    Raises:
        UserError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "the engine is ray, but Ray is not installed",
            "install Ray with `pip install burnish[ray]`, or omit --engine",
            code="not_installed",
            package="ray",
        )
    return ("burnish.serving.jobs.run_on_ray", *([address] if address else []))


@contextmanager
def folder_lock(folder: Path) -> Iterator[int | None]:
    """Lock the folder, and return the lock's file descriptor; None while another process holds it.

    A process that inherits the number holds the lock until it ends itself. So the run of a worker
    that only lost its lease, and may be alive, is never written by two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield number
    finally:
        os.close(number)


class JobProcess:
    """A process that runs one recipe; it is killed when the `with` block ends first."""

    def __init__(self, recipe: Path, lock: int, engine: JobRunner = LOCAL) -> None:
        program, *told = engine
        command = [sys.executable, "-P", "-m", program, str(os.getpid()), str(recipe), *told]
        with (recipe.parent / _LOG).open("ab") as log:
            # A group of its own: Ctrl-C in the worker's terminal is the worker's to hand on.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                process_group=0,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def code(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Ask the process to write a checkpoint and exit."""
        if self.code is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        if self.code is None:
            self._process.kill()
        self._process.wait()
