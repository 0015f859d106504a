"""The chart of the search: target gain against general drop, with the released candidate."""

from dataclasses import dataclass

from burnish.reports import svg
from burnish.reports.read_run import MISSING
from burnish.runs.candidates import Candidate, Frontier

_HEALED = "healing attempts"


@dataclass(frozen=True, slots=True)
class ShownCandidate:
    """A formatted candidate."""

    label: str
    gain: str
    drop: str
    text_loss: str
    kl: str
    state: str


def frontier_plot(frontier: Frontier, budget: float | None) -> svg.Plot | None:
    """Plot gain (vertical) against drop (horizontal) with intervals, and a line at the budget."""
    series = []
    for index, candidate in enumerate(frontier.candidates):
        gain, drop = candidate.gain, candidate.drop
        if gain is None or drop is None:
            continue
        style = "validation" if candidate.attempt else "raw"
        style = "smooth" if index == frontier.released else style
        if candidate.drop_range is not None:
            low, high = candidate.drop_range
            series.append(svg.Series("", style, [(low, gain), (high, gain)]))
        if candidate.gain_range is not None:
            low, high = candidate.gain_range
            series.append(svg.Series("", style, [(drop, low), (drop, high)]))
        name = "released" if index == frontier.released else ""
        if candidate.attempt and not name and all(one.name != _HEALED for one in series):
            name = _HEALED  # once in the legend
        words = f"{candidate.label}, drop in points"
        series.append(svg.Series(name, style, [(drop, gain)], True, words))
    ends = [x for one in series for x, _ in one.points]
    seen = budget is not None and ends and min(ends) <= budget <= max(ends)
    marks = [budget] if seen and budget is not None else []
    return svg.line_plot(series, "Target gain against drop of general ability, in points", marks)


def shown_candidates(frontier: Frontier) -> list[ShownCandidate]:
    """All candidates, sorted by checkpoint and scale."""
    return [
        ShownCandidate(
            candidate.label,
            _ranged(candidate.gain, candidate.gain_range),
            _ranged(candidate.drop, candidate.drop_range),
            MISSING if candidate.text_loss is None else f"{candidate.text_loss:+z.1f}%",
            MISSING if candidate.kl is None else f"{candidate.kl:.3f}",
            _state(frontier, index),
        )
        for index, candidate in sorted(enumerate(frontier.candidates), key=_by_scale)
    ]


def _by_scale(row: tuple[int, Candidate]) -> tuple[str, int, float, float]:
    return row[1].attempt, row[1].step, row[1].slope, row[1].scale


def _ranged(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return MISSING
    return f"{value:+z.1f}" + (f" ({interval[0]:+z.1f} to {interval[1]:+z.1f})" if interval else "")


def _state(frontier: Frontier, index: int) -> str:
    if index == frontier.released:
        return "released"
    if index in frontier.order:
        return f"number {frontier.order.index(index) + 1} in the order of testing"
    unmeasured = frontier.candidates[index].drop is None
    return "dropped before full measurement" if unmeasured else "not tested"
