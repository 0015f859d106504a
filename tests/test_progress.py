"""What bars and lines say, and whose seconds are counted where."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from burnish import progress
from burnish.progress import Bars, Timeline, counted, on_timeline, phase, timeline


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Timeline]:
    """A timeline that is open, runs on the test's clock and has no thread."""
    made = Timeline(now=clock)
    made.console = Console(file=io.StringIO(), width=120)  # type: ignore[assignment]
    token = progress._TIMELINE.set(made)
    yield made
    progress._TIMELINE.reset(token)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_last_validation_is_shown() -> None:
    """It comes after the last step."""
    bars, written = Bars(), io.StringIO()
    bars.console = Console(file=written, width=120)
    with bars.training(2) as listen:
        for step, loss in ((1, 0.5), (2, 0.25)):
            listen("train", {"step": step, "loss": 1.0, "learnt_tokens_per_second": 7.0})
            listen("validation", {"step": step, "loss": loss})
    assert "2/2 loss 1.000 · val 0.250 · 7 tok/s" in written.getvalue()


@pytest.mark.parametrize("second", [0.5, 5.0, 14.0])
def test_no_phase_is_silent_for_more_than_15_seconds(
    opened: Timeline, clock: Clock, second: float
) -> None:
    """Whatever the thread's rhythm is, with a bar and without one."""
    bars = Bars()
    bars.console = opened.console
    silences, shown = [0.0], [0]

    def wait(seconds: float) -> None:
        for _ in range(int(seconds / 0.5)):
            opened.beat()
            count = len(lines(opened.console))
            silences.append(0.0 if count > shown[-1] else silences[-1] + 0.5)
            shown.append(count)
            clock.seconds += 0.5

    with phase("reading data"):
        wait(20 + second)
    with phase("training"), bars.items("step", 3) as advance:
        for _ in range(3):
            wait(40)
            advance(1)
    with phase("replay conversations"), counted("conversations", 2):
        wait(31)
    wait(16)
    assert max(silences) <= 15.0
    text = "\n".join(lines(opened.console))
    for part in ("reading data 0:00:14", "step 1/3 0:00:", "conversations 0/2 0:00:", "working"):
        assert part in text


def test_who_prints_lines_is_not_interrupted(opened: Timeline, clock: Clock) -> None:
    bars = Bars()
    bars.console = opened.console
    for _ in range(5):
        clock.seconds += 10
        bars.say("a line")
        opened.beat()
    assert lines(opened.console) == ["a line"] * 5


def test_the_seconds_of_all_phases_add_up(opened: Timeline, clock: Clock) -> None:
    with phase("loading models"):
        clock.seconds += 1
        with phase("replay conversations"):
            clock.seconds += 20
        clock.seconds += 2
    clock.seconds += 4
    with phase("healing"), phase("training"):
        clock.seconds += 300
    assert opened.taken() == {
        "other": 4.0,
        "loading models": 3.0,
        "replay conversations": 20.0,
        "healing": 300.0,
    }
    clock.seconds += 5
    assert opened.taken() == {"other": 5.0}


def test_a_verb_inside_another_one_counts_to_the_same_whole() -> None:
    @on_timeline
    def inner(*, quiet: bool) -> Timeline | None:
        return progress.current_timeline()

    with timeline(quiet=True) as outer:
        assert inner(quiet=False) is outer
    assert inner(quiet=True) is not outer
    assert progress.current_timeline() is None
    with phase("training"), counted("conversations", 1) as advance:  # nobody listens
        advance(1)


@pytest.mark.parametrize("colour", ["", "1"])
def test_colours_in_a_file_make_no_terminal(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CI services set FORCE_COLOR, and a bar that moves would fill their logs."""
    monkeypatch.setenv("FORCE_COLOR", colour)
    written = io.StringIO()
    bars = Bars()
    bars.console = Console(file=written, width=80)
    with bars.items("items", 2) as advance:
        advance(2)
    assert len(written.getvalue().splitlines()) == 1
