"""Starts `python -m burnish...` by a fork of a process that has imported everything already.

Imports take seconds, and a test of processes starts several. What starts here is a process like any
other: a child of the process that wants it, with streams, environment, signals and an exit code of
its own. Only the time before the program's first line is saved. `subprocess.Popen` stays in charge
of all the rest; a program that would import under other circumstances (another environment or
folder, other flags of Python) starts as ever.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IMPORTED = (
    "burnish.cli.options",
    "burnish.pipeline.verbs",
    "burnish.serving.jobs.worker",
    "burnish.sweep.search",
    "burnish.training.worker",
    "peft",
    "transformers.models.llama.modeling_llama",
    "transformers.models.bert.modeling_bert",
)
# Variables that matter to modules while they are imported.
EARLY = (
    "PYTHON",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "HF_",
    "TRANSFORMERS_",
    "TORCH",
    "LD_",
    "LC_",
    "LANG",
)
_SET_CHILD_SUBREAPER = 36
_MESSAGE = 1 << 17
_ROOM = 1 << 14  # for the command line of the program that a fork becomes
_fork_exec = subprocess._fork_exec  # type: ignore[attr-defined]
_path = [*sys.path]


class Starter(ABC):
    """Takes the place of what `subprocess.Popen` calls to fork and exec."""

    def __init__(self) -> None:
        self.environment, self.folder, self.forked = dict(os.environ), Path.cwd(), 0

    @contextmanager
    def installed(self, wanted: bool = True) -> Iterator[None]:
        """Until the block ends, `subprocess.Popen` starts our programs by a fork, or does not."""
        before = subprocess._fork_exec  # type: ignore[attr-defined]
        subprocess._fork_exec = self._start if wanted else _fork_exec  # type: ignore[attr-defined]
        try:
            yield
        finally:
            subprocess._fork_exec = before  # type: ignore[attr-defined]

    def _start(self, *given: Any) -> int:
        """With the arguments of `Popen`; returns the number of the process."""
        command = [os.fsdecode(word) for word in given[0]]
        _, _, close, kept, folder, variables, stdin, _, _, stdout, _, stderr = given[:12]
        _, problem, signals, session, group, *others = given[12:]
        environment = dict(os.environ)
        if variables is not None:
            environment = dict(os.fsdecode(pair).split("=", 1) for pair in variables)
        ordinary = close and signals and all(one in (None, -1, True) for one in others)
        if not (ordinary and _is_ours(command) and self._imports_alike(environment, folder)):
            return int(_fork_exec(*given))
        given_streams = enumerate((stdin, stdout, stderr))
        streams = [own if number == -1 else number for own, number in given_streams]
        kept = [number for number in kept if number != problem]
        request = {
            "command": command, "environment": environment, "parent": os.getpid(),
            "folder": os.fsdecode(folder) if folder else str(Path.cwd()),
            "session": session, "group": group, "numbers": [0, 1, 2, *kept],
        }  # fmt: skip
        pid = self._fork(request, [*streams, *kept])
        if pid is None:
            return int(_fork_exec(*given))
        self.forked += 1
        return pid

    def _imports_alike(self, environment: dict[str, str], folder: Any) -> bool:
        """A folder matters, too: without -P, its modules come before the libraries'."""

        def early(variables: dict[str, str]) -> dict[str, str]:
            return {name: value for name, value in variables.items() if name.startswith(EARLY)}

        place = Path(os.fsdecode(folder)) if folder else Path.cwd()
        return place == self.folder and early(environment) == early(self.environment)

    @abstractmethod
    def _fork(self, request: dict[str, Any], numbers: list[int]) -> int | None:
        """Forks a process that has these streams; None where it cannot."""


class ForkServer(Starter):
    """The tests' side; the server itself starts with the first program that is wanted of it."""

    def __init__(self) -> None:
        super().__init__()
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._server.wait()

    def _fork(self, request: dict[str, Any], numbers: list[int]) -> int | None:
        with self._lock:
            connection = self._connected()
            # The server's grandchild, whose parent ends at once, becomes a child of this process.
            libc = ctypes.CDLL(None)
            libc.prctl(_SET_CHILD_SUBREAPER, 1)
            try:
                socket.send_fds(connection, [json.dumps(request).encode()], numbers)
                answer = connection.recv(_MESSAGE)
            finally:
                libc.prctl(_SET_CHILD_SUBREAPER, 0)
        assert answer, "the fork server ended"
        return int(answer)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its_end:
                self._server = subprocess.Popen(
                    [sys.executable, "-P", __file__, str(its_end.fileno()), " " * _ROOM],
                    stdin=subprocess.DEVNULL,
                    env=self.environment,
                    cwd=self.folder,
                    pass_fds=(its_end.fileno(),),
                )
        return self._socket


class Forked(Starter):
    """A program that was forked, and forks those that it starts itself."""

    def _fork(self, request: dict[str, Any], numbers: list[int]) -> int | None:
        if len([*Path("/proc/self/task").iterdir()]) > 1:
            return None  # locks of other threads would stay locked
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            become(request, numbers)
            end()
        return pid


def _is_ours(command: list[str]) -> bool:
    words = [word for word in command[1:] if word != "-P"]
    if command[0] != sys.executable or len(words) < 2:
        return False
    return (words[0] == "-m" and words[1].split(".")[0] == "burnish") or (
        words[0] == "-c" and "burnish" in words[1]
    )


def serve(end: socket.socket) -> None:
    """Forks for each request until the client is gone; returns in the processes that it forks."""
    gc.freeze()
    while True:
        message, numbers, _, _ = socket.recv_fds(end, _MESSAGE, 64)
        if not message:
            raise SystemExit
        read, write = os.pipe()
        if (between := os.fork()) == 0:
            if (pid := os.fork()) == 0:
                end.close()
                os.close(read)
                os.close(write)
                become(json.loads(message), numbers)
                return
            os.write(write, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        end.send(os.read(read, 32))
        for number in (read, write, *numbers):
            os.close(number)


def become(request: dict[str, Any], numbers: list[int]) -> None:
    """Takes on what `exec` would have given to the process."""
    while os.getppid() != request["parent"]:
        time.sleep(0.0005)
    # High first, so that no number is overwritten that is still to be moved.
    moved = [os.dup2(number, 500 + i, inheritable=True) for i, number in enumerate(numbers)]
    os.closerange(3, 500)
    for number, wanted in zip(moved, request["numbers"], strict=True):
        os.dup2(number, wanted, inheritable=True)
    os.closerange(500, 500 + len(moved))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    tempfile.tempdir = None  # chosen once, by the environment of the process that was forked
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            default = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)
    if request["session"]:
        os.setsid()
    if (group := request["group"]) != -1:
        os.setpgid(0, group)
    safe, command = "-P" in request["command"][1:3], request["command"]
    _show(command)
    first = [] if safe else [request["folder"] if "-m" in command[1:3] else ""]
    sys.path[:] = [*first, *_path]
    sys.argv[:] = command[2 if safe else 1 :]


def _show(command: list[str]) -> None:
    """Lets `ps` see the program's command line; beyond the room for it, the server's stays."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    first, last = int(fields[45]), int(fields[46])
    words = b"".join(os.fsencode(word) + b"\0" for word in command)
    if len(words) <= last - first:
        ctypes.memset(first, 0, last - first)
        ctypes.memmove(first, words, len(words))


def execute() -> None:
    """Runs `-m MODULE` or `-c CODE` as Python does."""
    kind, program = sys.argv[0], sys.argv.pop(1)
    with Forked().installed():
        if kind == "-m":
            sys.modules.pop(program, None)  # it was imported as a part of others
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


def end() -> None:
    """Runs the program and ends the process with its code; nothing of its parent's is closed."""
    code = 1
    try:
        execute()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else bool(error.code)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        interrupted()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def interrupted() -> None:
    traceback.print_exc()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    own_end = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED:
        importlib.import_module(name)
    serve(own_end)
    try:
        execute()
    except KeyboardInterrupt:
        interrupted()
