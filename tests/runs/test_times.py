"""The seconds of a run's phases: they add up to the whole, also over a stop."""

import time
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.errors import InterruptedRunError
from burnish.progress import PHASES, timeline
from burnish.runs.directory import Manifest, RunDirectory
from burnish.runs.times import log_times, phase_times, shares, timed_run
from tests.rows import choices, labelled, write_rows


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", labelled(20))
    write_rows(tmp_path / "suite.jsonl", choices(8))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: tiny\nmodel: {tiny_folder}\ndata: {{train: rows.jsonl, system: Say red or green}}\n"
        f"training: {{epochs: 4, learning_rate: 0.02}}\n"
        f"evaluate: {{general: {tmp_path / 'suite.jsonl'}}}\noutput: {tmp_path / 'runs'}\n"
    )
    return path


def test_the_phases_of_a_run_add_up_to_the_whole(recipe: Path) -> None:
    verb = burnish.run  # imports the libraries
    started = time.monotonic()
    run = verb(recipe, quiet=True)
    whole = time.monotonic() - started
    times = run.manifest().times
    assert sum(times.values()) == pytest.approx(whole, rel=0.03, abs=0.1)
    assert list(times) == [name for name in PHASES if name in times]
    expected = {"reading data", "preflight", "training", "base answers", "tuned answers", "report"}
    assert expected <= set(times)
    assert times.get("other", 0.0) < 0.1 * whole
    assert sum(shares(times).values()) == pytest.approx(1)


def test_a_resumed_run_adds_up(recipe: Path) -> None:
    def stop(event: str, values: dict[str, Any]) -> None:
        if (event, values["step"]) == ("train", 4):
            raise InterruptedRunError("stopped")

    verb = burnish.run
    started = time.monotonic()
    with pytest.raises(InterruptedRunError):
        burnish.train(recipe, quiet=True, on_event=stop)
    before = RunDirectory.open(recipe.parent / "runs" / "tiny").manifest().times
    run = verb(recipe, quiet=True, resume=True)
    whole = time.monotonic() - started
    times = run.manifest().times
    assert times["training"] > before["training"] > 0
    assert sum(times.values()) == pytest.approx(whole, rel=0.03, abs=0.1)
    again = burnish.evaluate(run, quiet=True)  # a run that is judged is only read
    assert again.manifest().times == times


def test_a_killed_run_keeps_the_seconds_up_to_its_last_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Manifest("run", "training", {}, {}))
    with timeline(quiet=True) as current, current.phase("training"):
        time.sleep(0.02)
        log_times(run)
    assert phase_times(run)["training"] >= 0.02
    assert run.manifest().times == {}
    with timeline(quiet=True), timed_run(run):
        pass
    assert run.manifest().times["training"] >= 0.02
    run.drop_events_after(0)
    assert phase_times(run)["training"] >= 0.02
