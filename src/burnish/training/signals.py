"""Requests to stop training, as a flag that the loop reads between two steps."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from burnish.processes import SAME_REQUEST
from burnish.progress import current_timeline
from burnish.terminal import write

_REQUESTED: ContextVar[threading.Event | None] = ContextVar("requested", default=None)


@contextmanager
def stopped_by(requested: threading.Event) -> Iterator[None]:
    """Within a `with` block, runs stop on `requested` instead of signals.

    Signals reach only the main thread.
    """
    before = _REQUESTED.set(requested)
    try:
        yield
    finally:
        _REQUESTED.reset(before)


@contextmanager
def stop_requests(answer: Callable[[], str] | None = None) -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into a flag, so that a step is never interrupted.

    The first signal prints `answer()`, the work that is finished first. A second one raises
    KeyboardInterrupt at once. Within `answered_interrupts`, its thread does both.
    """
    stop = _REQUESTED.get() or threading.Event()
    if _REQUESTED.get() or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    timeline = current_timeline()
    is_answered = timeline is not None and timeline.answers_interrupts
    requested_at = 0.0

    def request(*_: Any) -> None:
        nonlocal requested_at
        now = time.monotonic()
        if not stop.is_set():
            stop.set()
            requested_at = now
            if answer and not is_answered:
                write(answer(), error=True)
        elif not is_answered and now - requested_at > SAME_REQUEST:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, request)
    if timeline:
        timeline.interrupt_answer = answer
    try:
        yield stop
    finally:
        if timeline:
            timeline.interrupt_answer = None
        for number, handler in before.items():
            signal.signal(number, handler)
