"""Writes the page of a sweep: a plot of validation loss over drop, and a table of the trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.reports import svg
from burnish.reports.render_template import render_template
from burnish.runs.atomic import write_atomic


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial as the page shows it; `drop` is (low end, estimate, high end) in points."""

    number: int
    state: str
    settings: Mapping[str, Any]
    validation: float | None
    drop: tuple[float, float, float] | None


def write_trials(
    folder: Path, title: str, trials: Sequence[TrialRow], budget: float | None
) -> Path:
    """Writes `trials.html`; without a budget no drop was measured, so the page has no plot."""
    text = render_template(
        "burnish.sweep",
        "page.html.j2",
        title=title,
        trials=trials,
        keys=list(dict.fromkeys(key for trial in trials for key in trial.settings)),
        budget=budget,
        plot=None if budget is None else _plot(trials, budget),
    )
    path = folder / "trials.html"
    write_atomic(path, text)
    return path


def _plot(trials: Sequence[TrialRow], budget: float) -> svg.Plot | None:
    """Draws each finished trial as a dot on its interval, and the budget as a dotted line."""
    groups: dict[tuple[str, str], list[TrialRow]] = {}
    for trial in trials:
        if trial.drop is not None and trial.validation is not None:
            groups.setdefault(_group(trial, budget), []).append(trial)
    series = []
    for (style, name), members in groups.items():
        for index, trial in enumerate(members):
            assert trial.drop is not None
            assert trial.validation is not None
            low, drop, high = trial.drop
            y = trial.validation
            series += [
                svg.Series("", style, [(low, y), (high, y)]),
                svg.Series("" if index else name, style, [(drop, y)], True, _label(trial)),
            ]
    ends = [x for one in series for x, _ in one.points]
    seen = ends and min(ends) <= budget <= max(ends)
    return svg.line_plot(series, "Validation loss by drop", [budget] if seen else [])


def _group(trial: TrialRow, budget: float) -> tuple[str, str]:
    assert trial.drop is not None
    if trial.state == "best":
        return "smooth", "best"
    inside = trial.drop[1] <= budget
    return ("raw", "within the budget") if inside else ("validation", "over the budget")


def _label(trial: TrialRow) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in trial.settings.items())
    return f"trial {trial.number} ({settings}), drop in points"
