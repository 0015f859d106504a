"""Progress of long work: bars in a terminal, lines elsewhere, and the seconds of each phase.

A program that runs without a terminal (in CI, under nohup, in a container) prints a line at least
every 15 seconds, whatever it is doing, so that nobody takes it for dead.
"""

import datetime
import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, get_args

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from burnish.terminal import Terminal

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
Advance = Callable[[int], None]
Phase = Literal[
    "starting", "reading data", "loading models", "replay conversations", "preflight",
    "learning rate test", "training", "contamination check", "base answers", "candidates",
    "certification", "tuned answers", "healing", "parity", "report", "other",
]  # fmt: skip
PHASES: tuple[Phase, ...] = get_args(Phase)
# A healing attempt trains and measures, and all of it is healing.
_WHOLE: Phase = "healing"
# Phases whose answers are saved as they come.
_SAVED: frozenset[Phase] = frozenset(
    {"base answers", "candidates", "certification", "tuned answers"}
)
_LONGEST_SILENCE = 15.0
_CHECKS_EVERY = 0.5


@dataclass
class Work:
    """A part of the work whose steps are counted.

    `console` is where its lines go; None where a bar shows it.
    """

    description: str
    total: int
    started: float
    console: Console | None
    done: int = 0
    detail: str = ""

    def line(self, now: float) -> str:
        """Description, count, detail and time since its start."""
        parts = (self.description, f"{self.done}/{self.total}", self.detail)
        return " ".join(filter(None, (*parts, _clock(now - self.started))))


class Timeline:
    """What a process is doing now, and the seconds of each phase, which add up to the whole.

    Args:
        quiet: nothing is printed; the seconds are counted all the same.
        now: a clock, in seconds.
    """

    def __init__(self, *, quiet: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self.quiet, self._now = quiet, now
        self.console = Terminal(stderr=True, quiet=quiet, highlight=False, emoji=False)
        # What the user is told after Ctrl-C, and whether a thread tells it.
        self.interrupt_answer: Callable[[], str] | None = None
        self.answers_interrupts = False
        self._interrupted: Phase | None = None
        self._phases: list[tuple[Phase, float]] = []
        self._works: list[Work] = []
        self._seconds: dict[Phase, float] = {}
        self._started = self._marked = self._printed = now()

    @property
    def current(self) -> Phase:
        """The phase that the present second is counted to."""
        names = [name for name, _ in self._phases]
        return _WHOLE if _WHOLE in names else (names[-1] if names else "other")

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Counts the seconds inside to `name`; a phase inside another one interrupts it."""
        self._mark()
        self._phases.append((name, self._now()))
        try:
            yield
        except KeyboardInterrupt:  # which may end the phase before the user is answered
            self._interrupted = self._interrupted or name
            raise
        finally:
            self._mark()
            self._phases.pop()

    def taken(self) -> dict[Phase, float]:
        """Seconds of each phase since the last call."""
        self._mark()
        taken, self._seconds = self._seconds, {}
        return taken

    @contextmanager
    def work(self, description: str, total: int, console: Console | None) -> Iterator[Work]:
        """Counted work; without a bar its last line is printed when it ends."""
        work = Work(description, total, self._now(), console)
        self._works.append(work)
        try:
            yield work
        finally:
            self._works.remove(work)
            self._print(work)

    def interrupted(self) -> str:
        """What happens after Ctrl-C, in a sentence for the user."""
        if self.interrupt_answer is not None:
            return self.interrupt_answer()
        name = self._interrupted or next((name for name, _ in self._phases[-1:]), "other")
        kept = "finished answers are saved" if name in _SAVED else "it starts again on resuming"
        during = "" if name == "other" else f" during {name}: {kept}"
        return f"stopping{during}; press Ctrl-C again to stop now"

    def printed(self) -> None:
        """Notes that the user has just seen a line."""
        self._printed = self._now()

    def beat(self) -> None:
        """Prints a line if the user would otherwise see none for 15 seconds."""
        if self._now() - self._printed >= _LONGEST_SILENCE - 2 * _CHECKS_EVERY:
            self._print(next(iter(self._works[-1:]), None))

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Calls `beat` from a thread while the process computes."""
        ended = threading.Event()

        def beats() -> None:
            while not ended.wait(_CHECKS_EVERY):
                self.beat()

        thread = threading.Thread(target=beats, name="burnish-progress", daemon=True)
        if not self.quiet:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.is_alive():
                thread.join()

    def _print(self, work: Work | None) -> None:
        """One line: the innermost counted work, or else the phase and its time so far."""
        self.printed()
        if work is not None:
            if work.console is not None:
                work.console.print(work.line(self._now()), markup=False, soft_wrap=True)
            return
        name, started = next(iter(self._phases[-1:]), ("working", self._started))
        self.console.print(f"{name} {_clock(self._now() - started)}", markup=False)

    def _mark(self) -> None:
        now = self._now()
        self._seconds[self.current] = self._seconds.get(self.current, 0.0) + now - self._marked
        self._marked = now


_TIMELINE: ContextVar[Timeline | None] = ContextVar("timeline", default=None)


@contextmanager
def timeline(*, quiet: bool = False) -> Iterator[Timeline]:
    """The timeline of the work inside: that of the caller, or a new one."""
    current = _TIMELINE.get()
    if current is not None:
        yield current
        return
    current = Timeline(quiet=quiet)
    token = _TIMELINE.set(current)
    try:
        with current.beating():
            yield current
    finally:
        _TIMELINE.reset(token)


def on_timeline(verb: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """A verb that counts its seconds and prints lines while it computes, unless `quiet`."""

    @functools.wraps(verb)
    def timed(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with timeline(quiet=bool(kwargs.get("quiet"))):
            return verb(*args, **kwargs)

    return timed


def current_timeline() -> Timeline | None:
    """The timeline that is open, if there is one."""
    return _TIMELINE.get()


def phase(name: Phase) -> AbstractContextManager[None]:
    """A context whose seconds count to the phase `name` of the timeline that is open."""
    current = _TIMELINE.get()
    return nullcontext() if current is None else current.phase(name)


def counts_to(name: Phase) -> Callable[[Callable[_Given, _Result]], Callable[_Given, _Result]]:
    """Decorates a function whose seconds count to the phase `name`."""

    def decorated(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
        @functools.wraps(function)
        def timed(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
            with phase(name):
                return function(*args, **kwargs)

        return timed

    return decorated


def is_interactive(console: Console) -> bool:
    """Whether a bar that moves can be shown; a colour that CI asks for makes no terminal."""
    return console.is_jupyter or (console.file.isatty() and not console.is_dumb_terminal)


class Bars:
    """Bars one under another; `say` prints a line above them. All of it goes to stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Terminal(stderr=True, quiet=quiet, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        self.console.print(text)
        if current := _TIMELINE.get():
            current.printed()

    @contextmanager
    def items(self, description: str, total: int) -> Iterator[Advance]:
        """A bar that counts finished items."""
        with self._shown(description, total) as update:
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                update(done, "")

            yield advance

    @contextmanager
    def training(self, steps: int) -> Iterator[Callable[[str, dict[str, Any]], None]]:
        """A bar that follows the loop's events: loss, training tokens per second, time left."""
        with self._shown("training", steps) as update:
            done, shown = 0, dict[str, str]()

            def listen(phase: str, values: dict[str, Any]) -> None:
                nonlocal done
                if phase == "validation":  # after the last step no other event would show it
                    shown["validation"] = f" · val {values['loss']:.3f}"
                if phase == "train":
                    shown["loss"] = f"loss {values['loss']:.3f}"
                    shown["rate"] = f" · {values['learnt_tokens_per_second']:.0f} tok/s"
                    done = values["step"]
                parts = (shown.get(key, "") for key in ("loss", "validation", "rate"))
                update(done, "".join(parts))

            yield listen

    @contextmanager
    def _shown(self, description: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar in a terminal; elsewhere the timeline prints lines."""
        is_bar = is_interactive(self.console)
        with (
            timeline(quiet=self.console.quiet) as current,
            current.work(description, total, None if is_bar else self.console) as work,
            self._bar() if is_bar else nullcontext() as bar,
        ):
            task = bar.add_task(description, total=total, detail="") if bar else None

            def update(done: int, detail: str) -> None:
                work.done, work.detail = done, detail
                if bar and task is not None:
                    bar.update(task, completed=done, detail=detail)

            yield update

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            console=self.console,
        )


@contextmanager
def counted(description: str, total: int) -> Iterator[Advance]:
    """A bar for a part of the work that knows no `Bars`; silent without a timeline."""
    current = _TIMELINE.get()
    bars = Bars(quiet=current is None)
    bars.console = current.console if current else bars.console
    with bars.items(description, total) as advance:
        yield advance


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
