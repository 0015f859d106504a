"""Inline SVG charts: intervals, curves and a heat map. Colours come from the page's CSS.

Curves stretch with the page, so tick labels are not part of the SVG: the template places them next
to it at the positions (in percent) that `Plot` gives.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

FOREST_WIDTH, FOREST_HEIGHT = 250, 26
_EDGE = 15  # a label closer to the edge would be cut off
_CELL, _LETTER, _LETTERS = 12, 5.6, 30  # heat map: pixels per cell and per character, longest label
_MOST_POINTS = 800

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """A range that contains all values, with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float, span: float = 100.0) -> float:
        """The position of `value` between 0 and `span`."""
        return round((value - self.low) / (self.high - self.low) * span, 2)


@dataclass(frozen=True, slots=True)
class Series:
    """One curve; `style` is a CSS class, `dots` marks each point, `x_name` names the x value."""

    name: str
    style: str
    points: Points
    dots: bool = False
    x_name: str = "step"


@dataclass(frozen=True, slots=True)
class Plot:
    """A stretching SVG with its ticks as (percent from the left or top, label)."""

    svg: Markup
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    legend: list[tuple[str, str]]


def axis(values: Iterable[float], ticks: int = 5) -> Axis:
    """An axis around the values; a single value gets room on both sides."""
    values = list(values)
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = _round_step((high - low) / ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(round(i * step, 12) for i in range(first, last + 1)))


def forest_axis(intervals: Iterable[tuple[float, float]], marks: Iterable[float]) -> Axis:
    """One axis for the intervals of a group, including zero and the marks (the budget)."""
    values = [0.0, *marks, *(bound for interval in intervals for bound in interval)]
    margin = (max(values) - min(values)) * 0.08 or 1.0
    return axis([min(values) - margin, max(values) + margin], ticks=5)


def forest_row(
    row: tuple[float, float, float], scale: Axis, budget: float | None, tone: str, words: str
) -> Markup:
    """Draw one interval: `row` is (low, delta, high), `budget` the value of the budget line."""
    low, delta, high = (scale.place(value, FOREST_WIDTH) for value in row)
    middle = FOREST_HEIGHT / 2
    shapes = [_upright(scale.place(0, FOREST_WIDTH), "zero")]
    if budget is not None:
        shapes.append(_upright(scale.place(budget, FOREST_WIDTH), "budget"))
    shapes += [
        _tag("line", x1=low, x2=high, y1=middle, y2=middle, class_=f"whisker {tone}"),
        *(
            _tag("line", x1=x, x2=x, y1=middle - 4, y2=middle + 4, class_=f"whisker {tone}")
            for x in (low, high)
        ),
        _tag("circle", cx=delta, cy=middle, r=4.5, class_=f"estimate {tone}"),
    ]
    return _picture(shapes, FOREST_WIDTH, FOREST_HEIGHT, words)


def forest_ticks(scale: Axis) -> Markup:
    """Draw the axis above a group of intervals."""
    shapes = []
    for tick in scale.ticks:
        x = scale.place(tick, FOREST_WIDTH)
        if not _EDGE <= x <= FOREST_WIDTH - _EDGE:
            continue
        sign = "+" if tick > 0 else ""
        shapes.append(_tag("line", x1=x, x2=x, y1=15, y2=20, class_="tick"))
        shapes.append(_tag("text", sign + tick_label(tick), x=x, y=11, text_anchor="middle"))
    return _picture(shapes, FOREST_WIDTH, 20, "axis")


def line_plot(series: Sequence[Series], words: str, marks: Sequence[float] = ()) -> Plot | None:
    """Plot curves over steps; None if nothing was recorded. `marks` are vertical lines."""
    series = [one for one in series if one.points]
    if not series:
        return None
    x_axis = axis([x for one in series for x, _ in one.points], ticks=6)
    heights = [y for one in series for _, y in one.points]
    margin = (max(heights) - min(heights)) * 0.06
    y_axis = axis([min(heights) - margin, max(heights) + margin], ticks=4)
    shapes = [_path(f"M0 {_down(y_axis, tick)}H100", "grid") for tick in y_axis.ticks] + [
        _path(f"M{x_axis.place(mark)} 0V100", "mark") for mark in marks
    ]
    for one in series:
        shapes += _curve(one, x_axis, y_axis)
    return Plot(
        _stretching(shapes, words),
        [(x_axis.place(tick), tick_label(tick)) for tick in x_axis.ticks],
        [(_down(y_axis, tick), tick_label(tick)) for tick in y_axis.ticks],
        [(one.style, one.name) for one in series if one.name],
    )


def smoothed(points: Points) -> Points:
    """Centred moving average over about a fifteenth of the points, without lag."""
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    widest, last = max(1, len(points) // 30), len(points) - 1
    result = []
    for index, (x, _) in enumerate(points):
        half = min(widest, index, last - index)
        result.append((x, (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)))
    return result


def heat_map(
    rows: Sequence[str], columns: Sequence[str], counts: Mapping[tuple[str, str], int]
) -> Markup:
    """Expected labels by rows, predicted labels by columns; the shade is the share of the row."""
    totals = {row: sum(counts.get((row, c), 0) for c in columns) for row in rows}
    left = math.ceil(max(len(_short(row)) for row in rows) * _LETTER) + 10
    places = {name: left + index * _CELL for index, name in enumerate(columns)}
    shapes = [
        _tag("text", _short(row), x=left - 6, y=(index + 0.78) * _CELL, text_anchor="end")
        for index, row in enumerate(rows)
    ]
    lines = {row: index * _CELL for index, row in enumerate(rows)}
    for (row, column), n in counts.items():
        words = _tag("title", f"{row} predicted as {column}: {n} of {totals[row]}")
        shade = "right" if row == column else "wrong"
        share = round(0.3 + 0.7 * n / totals[row], 3)
        size = {"width": _CELL - 1, "height": _CELL - 1}
        shapes.append(
            _tag("rect", words, x=places[column], y=lines[row], **size, class_=shade, opacity=share)
        )
    width, height = left + len(columns) * _CELL, len(rows) * _CELL
    return _picture(shapes, width, height, "Confusion matrix: expected by predicted labels")


def tick_label(value: float) -> str:
    """Format a tick; thousands as `k`."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("e-0", "e-").replace("-", "−")


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)


def _curve(series: Series, x_axis: Axis, y_axis: Axis) -> list[Markup]:
    stride = math.ceil(len(series.points) / _MOST_POINTS)
    kept = [*series.points[:-1:stride], series.points[-1]]
    places = [(x_axis.place(x), _down(y_axis, y)) for x, y in kept]
    shapes = [_path("M" + "L".join(f"{x} {y}" for x, y in places), series.style)]
    if series.dots or len(places) == 1:
        for (x, y), (step, value) in zip(places, kept, strict=True):
            words = _tag("title", f"{series.x_name} {step:g}: {value:.4g}")
            shapes.append(_path(f"M{x} {y}h0", f"{series.style} dot", words))
    return shapes


def _down(scale: Axis, value: float) -> float:
    return round(100 - scale.place(value), 2)


def _path(d: str, style: str, content: str = "") -> Markup:
    return _tag("path", content, d=d, class_=style, vector_effect="non-scaling-stroke")


def _upright(x: float, style: str) -> Markup:
    return _tag("line", x1=x, x2=x, y1=0, y2=FOREST_HEIGHT, class_=style)


def _short(label: str) -> str:
    return label if len(label) <= _LETTERS else label[: _LETTERS - 1] + "…"


def _stretching(shapes: Iterable[Markup], words: str) -> Markup:
    box = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}
    return _tag("svg", Markup("").join(shapes), **box, role="img", aria_label=words)


def _picture(shapes: Iterable[Markup], width: int, height: int, words: str) -> Markup:
    size = {"width": width, "height": height, "viewBox": f"0 0 {width} {height}"}
    return _tag("svg", Markup("").join(shapes), **size, role="img", aria_label=words)


def _tag(name: str, content: str = "", **attributes: object) -> Markup:
    """One element; text and attribute values are escaped, `class_` becomes `class`."""
    pairs = Markup(" ").join(
        Markup('{}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
    )
    space = " " if pairs else ""
    return Markup("<{}{}{}>{}</{}>").format(name, space, pairs, content, name)
