"""The picture of the search: target gain against what was lost, the released point marked."""

from dataclasses import dataclass

from burnish.reports import svg
from burnish.reports.read_run import MISSING
from burnish.runs.candidates import Candidate, Frontier

_HEALED = "healing attempts"


@dataclass(frozen=True, slots=True)
class ShownCandidate:
    """A candidate in words."""

    label: str
    gain: str
    drop: str
    text_loss: str
    kl: str
    state: str


def frontier_plot(frontier: Frontier, budget: float | None) -> svg.Plot | None:
    """Gain upwards, drop to the right, both with their intervals; a dotted line at the budget."""
    series = []
    for place, candidate in enumerate(frontier.candidates):
        gain, drop = candidate.gain, candidate.drop
        if gain is None or drop is None:
            continue
        style = "validation" if candidate.attempt else "raw"
        style = "smooth" if place == frontier.released else style
        if candidate.drop_range is not None:
            low, high = candidate.drop_range
            series.append(svg.Series("", style, [(low, gain), (high, gain)]))
        if candidate.gain_range is not None:
            low, high = candidate.gain_range
            series.append(svg.Series("", style, [(drop, low), (drop, high)]))
        name = "released" if place == frontier.released else ""
        if candidate.attempt and not name and all(one.name != _HEALED for one in series):
            name = _HEALED  # once in the legend
        words = f"{candidate.label}, drop in points"
        series.append(svg.Series(name, style, [(drop, gain)], True, words))
    ends = [x for one in series for x, _ in one.points]
    seen = budget is not None and ends and min(ends) <= budget <= max(ends)
    marks = [budget] if seen and budget is not None else []
    return svg.line_plot(series, "Target gain by drop of general ability", marks)


def shown_candidates(frontier: Frontier) -> list[ShownCandidate]:
    """All that were looked at, by checkpoint and scale."""
    return [
        ShownCandidate(
            candidate.label,
            _ranged(candidate.gain, candidate.gain_range),
            _ranged(candidate.drop, candidate.drop_range),
            MISSING if candidate.text_loss is None else f"{candidate.text_loss:+z.1f} %",
            MISSING if candidate.kl is None else f"{candidate.kl:.3f}",
            _state(frontier, place),
        )
        for place, candidate in sorted(enumerate(frontier.candidates), key=_by_scale)
    ]


def _by_scale(row: tuple[int, Candidate]) -> tuple[str, int, float, float]:
    return row[1].attempt, row[1].step, row[1].slope, row[1].scale


def _ranged(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return MISSING
    return f"{value:+z.1f}" + (f" ({interval[0]:+z.1f} to {interval[1]:+z.1f})" if interval else "")


def _state(frontier: Frontier, place: int) -> str:
    if place == frontier.released:
        return "released"
    if place in frontier.order:
        return f"{frontier.order.index(place) + 1} in the order of testing"
    return "left behind" if frontier.candidates[place].drop is None else "not tested"
