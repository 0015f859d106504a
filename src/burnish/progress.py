"""Progress of long work: bars in a terminal, lines elsewhere, and the seconds of each phase.

Without a terminal (in CI, under nohup, in a container) a line is printed at least every 15 seconds,
so that the program does not seem to hang.
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

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
Advance = Callable[[int], None]
Phase = Literal[
    "starting", "reading data", "loading models", "replay conversations", "preflight",
    "learning rate test", "training", "contamination check", "base answers", "candidates",
    "certification", "tuned answers", "healing", "parity", "report", "other",
]  # fmt: skip
PHASES: tuple[Phase, ...] = get_args(Phase)
# A healing attempt has phases such as training, but all of its time counts as healing.
_WHOLE: Phase = "healing"
# Phases whose answers are saved one by one.
_SAVED: frozenset[Phase] = frozenset(
    {"base answers", "candidates", "certification", "tuned answers"}
)
_LONGEST_SILENCE = 15.0
_CHECKS_EVERY = 0.5


@dataclass
class Work:
    """Work with a number of steps; `console` prints its lines, and is None if a bar shows it."""

    description: str
    total: int
    started: float
    console: Console | None
    done: int = 0
    detail: str = ""

    def line(self, now: float) -> str:
        """Return the description, the count, the detail and the time since the start."""
        parts = (self.description, f"{self.done}/{self.total}", self.detail)
        return " ".join(filter(None, (*parts, _clock(now - self.started))))


class Timeline:
    """The present work of a process, and the seconds of each phase, which add up to the total.

    Args:
        quiet: print nothing; seconds are counted all the same.
        now: a clock in seconds.
    """

    def __init__(self, *, quiet: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self.quiet, self._now = quiet, now
        self.console = Terminal(stderr=True, quiet=quiet, highlight=False, emoji=False)
        # The message after Ctrl-C, and whether a thread prints it.
        self.interrupt_answer: Callable[[], str] | None = None
        self.answers_interrupts = False
        self._interrupted: Phase | None = None
        self._phases: list[tuple[Phase, float]] = []
        self._works: list[Work] = []
        self._seconds: dict[Phase, float] = {}
        self._started = self._marked = self._printed = now()

    @property
    def current(self) -> Phase:
        """The phase to which the present time counts."""
        names = [name for name, _ in self._phases]
        return _WHOLE if _WHOLE in names else (names[-1] if names else "other")

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the seconds of a `with` block to `name`; an inner phase interrupts an outer one."""
        self._mark()
        self._phases.append((name, self._now()))
        try:
            yield
        except KeyboardInterrupt:  # may end the phase before the message is printed
            self._interrupted = self._interrupted or name
            raise
        finally:
            self._mark()
            self._phases.pop()

    def taken(self) -> dict[Phase, float]:
        """Return the seconds of each phase since the last call."""
        self._mark()
        taken, self._seconds = self._seconds, {}
        return taken

    @contextmanager
    def work(self, description: str, total: int, console: Console | None) -> Iterator[Work]:
        """Add counted work for a `with` block, which prints its last line unless a bar shows it."""
        work = Work(description, total, self._now(), console)
        self._works.append(work)
        try:
            yield work
        finally:
            self._works.remove(work)
            self._print(work)

    def interrupted(self) -> str:
        """Return the message after Ctrl-C: what happens now."""
        if self.interrupt_answer is not None:
            return self.interrupt_answer()
        name = self._interrupted or next((name for name, _ in self._phases[-1:]), "other")
        result = "finished answers are saved" if name in _SAVED else "it starts again on resuming"
        during = "" if name == "other" else f" during {name}: {result}"
        return f"stopping{during}; press Ctrl-C again to stop now"

    def printed(self) -> None:
        """Note that a line has just been printed."""
        self._printed = self._now()

    def beat(self) -> None:
        """Print a line if there would otherwise be none for 15 seconds."""
        if self._now() - self._printed >= _LONGEST_SILENCE - 2 * _CHECKS_EVERY:
            self._print(next(iter(self._works[-1:]), None))

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Call `beat` from a thread during a `with` block."""
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
        """Print the line of the innermost counted work, or else the phase and its time so far."""
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
    """Yield the open timeline, or a new one."""
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


def on_timeline(verb: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Decorate a function to count its seconds and to print progress lines, unless `quiet`."""

    @functools.wraps(verb)
    def timed(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        with timeline(quiet=bool(kwargs.get("quiet"))):
            return verb(*args, **kwargs)

    return timed


def current_timeline() -> Timeline | None:
    """Return the open timeline; None if there is none."""
    return _TIMELINE.get()


def phase(name: Phase) -> AbstractContextManager[None]:
    """Return a context whose seconds count to the phase `name` of the open timeline."""
    current = _TIMELINE.get()
    return nullcontext() if current is None else current.phase(name)


def counts_to(name: Phase) -> Callable[[Callable[_Args, _Result]], Callable[_Args, _Result]]:
    """Decorate a function so that its seconds count to the phase `name`."""

    def decorated(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
        @functools.wraps(function)
        def timed(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
            with phase(name):
                return function(*args, **kwargs)

        return timed

    return decorated


def is_interactive(console: Console) -> bool:
    """Whether moving bars can be shown; forced colours, as in CI, do not make a terminal."""
    return console.is_jupyter or (console.file.isatty() and not console.is_dumb_terminal)


class Bars:
    """Progress bars, and lines above them; everything is printed to stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Terminal(stderr=True, quiet=quiet, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        self.console.print(text)
        if current := _TIMELINE.get():
            current.printed()

    @contextmanager
    def items(self, description: str, total: int) -> Iterator[Advance]:
        """Show a bar that counts finished items."""
        with self._shown(description, total) as update:
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                update(done, "")

            yield advance

    @contextmanager
    def training(self, steps: int) -> Iterator[Callable[[str, dict[str, Any]], None]]:
        """Show a bar with the loss, training tokens per second and time left, by loop events."""
        with self._shown("training", steps) as update:
            done, shown = 0, dict[str, str]()

            def listen(phase: str, values: dict[str, Any]) -> None:
                nonlocal done
                if phase == "validation":  # no event follows the validation of the last step
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
        """Show a bar in a terminal; elsewhere the timeline prints lines."""
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
    """Show a bar in a function without `Bars`; prints nothing without a timeline."""
    current = _TIMELINE.get()
    bars = Bars(quiet=current is None)
    bars.console = current.console if current else bars.console
    with bars.items(description, total) as advance:
        yield advance


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
