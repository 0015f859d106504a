"""Processes: how they share the processor's cores, answer Ctrl-C, and end with their parent."""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from burnish.progress import timeline
from burnish.terminal import Terminal, write

_PR_SET_PDEATHSIG = 1
# Seconds within which a second signal counts as the first one: `timeout` signals a process and then
# its group.
SAME_REQUEST = 0.5
INTERRUPTED = 130
# Number of times that an OpenMP thread looks for work before it sleeps. By default it looks for
# milliseconds, which on a busy machine takes time from the thread that it waits for. On a quiet
# machine, a thread that sleeps too soon has to be woken for nearly every product.
_SPINS_QUIET, _SPINS_BUSY = "20000", "1000"
_SPINS, _POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
_YIELDING = 10


def let_threads_sleep() -> None:
    """Make OpenMP threads that wait for others sleep soon, on a busy machine at once.

    Call it before torch is imported: OpenMP reads the environment once, when torch loads it. The
    user's own settings are not changed; a choice that a parent process made here is made again.
    """
    inherited = os.environ.get(_SPINS, _SPINS_QUIET) in (_SPINS_QUIET, _SPINS_BUSY)
    if inherited and _POLICY not in os.environ:
        os.environ[_SPINS] = _SPINS_BUSY if is_machine_busy() else _SPINS_QUIET


def is_machine_busy() -> bool:
    """Whether other threads want all of the cores now; False where the system does not say."""
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return running - 1 >= (os.cpu_count() or 1)  # this thread runs, too


def yield_to_others() -> None:
    """Lower the priority of this process and its children, so that the server answers first.

    On an idle machine they are as fast as before.
    """
    if hasattr(os, "nice"):
        os.nice(_YIELDING)


def die_with(parent: int) -> None:
    """Let Linux kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the process that started this one has ended")


@contextmanager
def answered_interrupts(last_words: str, *, quiet: bool) -> Iterator[None]:
    """Respond to Ctrl-C at once, even if the main thread computes and cannot handle signals.

    The first one prints what happens now; a second one prints `last_words` and ends the process.
    This is safe at any time, since files are written completely or not at all.
    """
    with timeline(quiet=quiet) as current:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(
            target=_answer,
            args=(receiver, current.interrupted, last_words),
            name="burnish-interrupts",
            daemon=True,
        )
        thread.start()
        current.answers_interrupts = True
        try:
            yield
        finally:
            current.answers_interrupts = False
            signal.set_wakeup_fd(before)
            sender.close()
            thread.join()
            receiver.close()


def _answer(receiver: socket.socket, answer: Callable[[], str], last_words: str) -> None:
    """Read the numbers of received signals until the socket is closed."""
    first: float | None = None
    while numbers := receiver.recv(1):
        if numbers[0] not in (signal.SIGINT, signal.SIGTERM):
            continue
        now = time.monotonic()
        if first is None:
            first = now
            write(answer(), error=True)
        elif now - first > SAME_REQUEST:
            Terminal(stderr=True).show_cursor(True)  # a bar hides it
            write(last_words, error=True)
            os._exit(INTERRUPTED)
