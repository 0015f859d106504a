"""Requests to stop, as a flag that the loop reads between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ASKED: ContextVar[threading.Event | None] = ContextVar("asked", default=None)


@contextmanager
def stopped_by(asked: threading.Event) -> Iterator[None]:
    """Runs inside listen to `asked` and to no signal: signals reach the main thread alone."""
    before = _ASKED.set(asked)
    try:
        yield
    finally:
        _ASKED.reset(before)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turns SIGINT and SIGTERM into a flag, so that a step is never cut in half."""
    stop = _ASKED.get() or threading.Event()
    if _ASKED.get() or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
