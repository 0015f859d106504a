"""Runs untrusted Python in a process that can only compute; see `sandbox_child`."""

import contextlib
import fcntl
import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from burnish.evaluation.graders import sandbox_child
from burnish.evaluation.graders.template import GradingError

_CHUNK = 1 << 16
_PREFIX = "burnish-grader-"
# Seconds between checks for a stop request, and for the end of the process after its result.
_LOOK, _END = 0.2, 0.005
_TOLD = 500  # last characters of a crashed program's output in the error


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a program: seconds of wall and CPU time, bytes of memory, bytes of output.

    `walls` is False to run without the kernel's restrictions, as on systems that have none. `ends`
    is the time of the monotonic clock at which all programs with these limits have to be done;
    setting `stop` ends the running program.
    """

    seconds: float = 30.0
    memory: int = 2 << 30
    output: int = 1 << 16
    walls: bool = True
    ends: float = math.inf
    stop: threading.Event = field(default_factory=threading.Event)

    def left(self) -> "Limits":
        """These limits with the remaining seconds.

        Raises:
            GradingError: no time is left, or `stop` is set.
        """
        seconds = min(self.seconds, self.ends - time.monotonic())
        if self.stop.is_set():
            raise _stopped("its grade is no longer needed", "cancelled")
        if seconds <= 0:
            raise _stopped("the time limit for all graders together has passed", "timeout")
        return replace(self, seconds=seconds)


def run_grade(
    source: str, sample: Mapping[str, Any], item: Mapping[str, Any], limits: Limits | None = None
) -> float:
    """Run `grade(sample, item)` of the source and return its result.

    Raises:
        GradingError: the program failed or returned no number (python_grader_runtime_error), or it
            was stopped (python_grader_server_error).
    """
    return _run(source, {"sample": dict(sample), "item": dict(item), "check": False}, limits)


def check_source(source: str, limits: Limits | None = None) -> None:
    """Runs the source without grading: it must define `grade`. Raises as `run_grade` does."""
    _run(source, {"sample": {}, "item": {}, "check": True}, limits)


def sweep() -> None:
    """Deletes what graders left behind whose server was killed; the folder of one that runs is
    locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(place).st_uid == os.geteuid():
                    fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(place)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder, locked as long as this process lives and needs it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        place = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # no locks on that disk, so it is never swept either
            fcntl.flock(place, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(place)  # swept between its making and its lock
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(place)


def _run(source: str, given: Mapping[str, Any], limits: Limits | None) -> float:
    limits = (limits or Limits()).left()
    try:
        with _folder() as folder:
            folder.chmod(0o755)  # the program may be another user, who looks into no other file
            task = folder / "task.json"
            task.touch(0o600)
            task.write_text(json.dumps({**given, "source": source, "walls": limits.walls}))
            process = _Process(task, limits)
            try:
                process.wait()
            finally:
                process.stop()
            return process.score()
    except OSError as error:
        said = f"no process can be started: {error}"
        raise GradingError("python_grader_server_error", said, "start") from error


class _Process:
    """The program at work: what it prints, its result, and why it was stopped if it was."""

    def __init__(self, task: Path, limits: Limits) -> None:
        self.limits = limits
        self.printed, self.result = bytearray(), bytearray()
        self.result_pipe, theirs = os.pipe()
        seconds = max(1, round(limits.seconds))
        command = [sys.executable, "-I", "-B", "-X", "utf8", sandbox_child.__file__]
        try:
            with task.open("rb") as given:
                self.process = subprocess.Popen(
                    [*command, str(theirs), str(seconds), str(limits.memory), str(os.getpid())],
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs],
                    cwd=task.parent,
                    env={},
                    start_new_session=True,
                    umask=0o022,  # the program's own user reads what is laid out for it
                )
        except OSError:
            os.close(self.result_pipe)
            raise
        finally:
            os.close(theirs)
        task.unlink()

    def wait(self) -> None:
        """Read both pipes until they end.

        Raises:
            GradingError: the program exceeds its time or its output limit.
        """
        ends = time.monotonic() + self.limits.seconds
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout.fileno(), selectors.EVENT_READ, self.printed)
            waiting.register(self.result_pipe, selectors.EVENT_READ, self.result)
            while waiting.get_map():
                self._check_time(ends)
                for key, _ in waiting.select(_LOOK):
                    chunk = os.read(key.fd, _CHUNK)
                    key.data.extend(chunk)
                    if not chunk:
                        waiting.unregister(key.fd)
                    if len(key.data) > self.limits.output:
                        raise _stopped(f"it printed more than {self.limits.output} bytes", "output")
            self._await_end(ends)

    def _check_time(self, ends: float) -> None:
        if self.limits.stop.is_set():
            raise _stopped("its grade is no longer needed", "cancelled")
        if time.monotonic() > ends:
            raise _stopped(f"it ran for more than {self.limits.seconds:.3g} s", "timeout")

    def _await_end(self, ends: float) -> None:
        latest = max(ends, time.monotonic() + 0.1)
        while not self._is_over():
            self._check_time(latest)
            time.sleep(_END)

    def _is_over(self) -> bool:
        """Whether the process has ended; on Linux it is not reaped, so its group id stays valid."""
        if sys.platform != "linux":
            return self.process.poll() is not None
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, ended) is not None

    def stop(self) -> None:
        """End the program and everything that it started, and close the pipes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self.result_pipe)

    def score(self) -> float:
        """The result of a program that has ended."""
        code = self.process.returncode
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            raise _stopped(f"it used more than {self.limits.seconds:g} s of CPU time", "timeout")
        found = _read(bytes(self.result))
        if found is None:
            last = bytes(self.printed[-_TOLD:]).decode(errors="replace").strip()
            raise _stopped(f"it exited with code {code} and without a result: {last}", "crash")
        if "score" in found:
            return float(found["score"])
        if found.get("kind") == "memory":
            raise _stopped(str(found["error"]), "memory")
        raise GradingError("python_grader_runtime_error", str(found["error"]))


def _read(result: bytes) -> dict[str, Any] | None:
    """Parse the result from the pipe, which the untrusted program may have written itself."""
    try:
        found = json.loads(result)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    score = found.get("score")
    number = isinstance(score, int | float) and abs(score) <= sys.float_info.max
    return found if number or ("score" not in found and "error" in found) else None


def _stopped(reason: str, kind: str) -> GradingError:
    return GradingError("python_grader_server_error", f"the grader was stopped: {reason}", kind)
