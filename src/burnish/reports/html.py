"""Writes the report: one HTML page with inline style and charts, without network access.

It only reads the run directory, so it can be written again at any time, also for an unfinished run:
it then lists what is missing, with the command that continues the run.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from burnish.reports import svg
from burnish.reports.frontier import frontier_plot, shown_candidates
from burnish.reports.read_run import (
    GENERAL,
    MISSING,
    Contents,
    Row,
    count,
    duration,
    flat,
    in_points,
    is_loss,
    leakage_line,
    ledger_groups,
    number,
    plain,
    read_contents,
    signed,
    stages,
)
from burnish.reports.render_template import render_template
from burnish.runs.atomic import write_atomic
from burnish.runs.directory import ItemResult, LedgerRow, RunDirectory, Verdict
from burnish.runs.times import shares

MOST_ITEMS = 200  # items shown in each list of lost or gained items
_MOST_TABLE_LABELS, _MOST_MAP_LABELS, _MOST_CONFUSIONS = 12, 80, 15
_FOLD, _CUT = 280, 4000  # characters shown at once, characters included in the page
OTHER = "other answer"
# Units in words for the charts; the ledger has the short names.
_UNITS = {"nats/token": "nats per token", "KL nats/token": "KL in nats per token"}

_DECISIONS = {
    "release": ("Release", "The gain is significant, and forgetting stays within the budget."),
    "hold": ("Hold", "Do not replace the base model with this model."),
    "inconclusive": ("Inconclusive", "There are too few measurements to decide."),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number at the top of the page."""

    label: str
    value: str
    note: str
    used: float | None = None  # used share of the budget, for the meter


@dataclass(frozen=True, slots=True)
class DrawnGroup:
    """Ledger rows that share one axis."""

    name: str
    unit: str
    ticks: Markup
    rows: list[tuple[Row, Markup]]


@dataclass(frozen=True, slots=True)
class Flips:
    """Items that only one of the models answered correctly."""

    title: str
    direction: str
    total: int
    shown: list[tuple[str, ItemResult, ItemResult]]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Expected against predicted labels; answers that are not a label are `OTHER`."""

    labels: list[str]
    columns: list[str]
    counts: Counter[tuple[str, str]]
    totals: Counter[str]
    worst: list[tuple[str, str, int]]
    picture: Markup | None

    @property
    def as_table(self) -> bool:
        """Whether the labels are few enough for a table."""
        return len(self.labels) <= _MOST_TABLE_LABELS


def write_page(run: RunDirectory) -> Path:
    """Write `report.html` of a finished or unfinished run atomically.

    Raises:
        RunError: a file of the run is incomplete.
    """
    path = run.path / "report.html"
    write_atomic(path, _render(read_contents(run)))
    return path


def _render(contents: Contents) -> str:
    manifest = contents.manifest
    return render_template(
        "burnish.reports",
        "report.html.j2",
        plain,
        count,
        fold,
        contents=contents,
        manifest=manifest,
        recipe=flat(manifest.recipe),
        recipe_yaml=yaml.safe_dump(manifest.recipe, sort_keys=False, allow_unicode=True),
        decision=_decision(contents),
        figures=_figures(contents),
        stages=stages(contents),
        groups=[
            _drawn(name, rows, contents.budget) for name, rows in ledger_groups(contents.ledger)
        ],
        confidence=_confidence(contents),
        flips=_flips(contents),
        confusion=confusion(contents.labelled),
        facts=_facts(contents),
        leakage=leakage_line(contents.leakage, contents.ledger) if contents.leakage else None,
        most=MOST_ITEMS,
        **_frontier(contents),
        **_training(contents),
    )


def fold(text: str) -> tuple[str, str, int]:
    """Split a text into the visible part, the expandable part, and the number of cut characters."""
    head, rest = text[:_FOLD], text[_FOLD:_CUT]
    space = head.rfind(" ")
    if rest and space > _FOLD // 2:
        head, rest = text[:space], text[space:_CUT]
    return head, rest, max(0, len(text) - _CUT)


def confusion(answers: Sequence[ItemResult]) -> Confusion | None:
    """Count expected against predicted labels; None if the expected answers are not labels.

    Answers that rarely repeat are not labels.
    """
    totals = Counter(item.expected.strip() for item in answers)
    if len(totals) < 2 or len(totals) > len(answers) / 2:
        return None
    known = {label.casefold(): label for label in totals}
    counts = Counter((item.expected.strip(), _answered(item, known)) for item in answers)
    labels = sorted(totals, key=str.casefold)
    others = [OTHER] if any(answer == OTHER for _, answer in counts) else []
    wrong = [(e, a, n) for (e, a), n in counts.most_common() if e != a]
    drawn = _MOST_TABLE_LABELS < len(labels) <= _MOST_MAP_LABELS
    picture = svg.heat_map(labels, labels + others, counts) if drawn else None
    return Confusion(labels, labels + others, counts, totals, wrong[:_MOST_CONFUSIONS], picture)


def _answered(item: ItemResult, known: Mapping[str, str]) -> str:
    """The predicted label; the scorer may have accepted another spelling."""
    if item.score == 1.0:
        return item.expected.strip()
    return known.get(item.answer.strip().casefold(), OTHER)


def _decision(contents: Contents) -> tuple[str, str, str]:
    verdict = contents.verdict
    if verdict is None:
        return "open", "Not certified yet", "The run is not finished."
    word, lead = _DECISIONS[verdict.decision]
    if verdict.decision == "release" and all(row.kind != "general" for row in contents.ledger):
        lead = "The gain is significant, and this model has no general ability to lose."
    return verdict.decision, word, lead


def _figures(contents: Contents) -> list[Figure]:
    verdict = contents.verdict
    if verdict is None:
        return []
    level = f"{verdict.confidence * 100:g}% confidence"
    drop = verdict.certified_general_drop
    figures = [
        _gain(contents.ledger, verdict, level),
        Figure(
            "Certified general drop",
            number(drop, 2),
            f"points at most, {level}" if drop is not None else "no bound could be certified",
            None if drop is None else min(max(drop / verdict.budget, 0.0), 1.0),
        ),
        Figure("Forgetting budget", number(verdict.budget, 2), "points, set in the recipe"),
    ]
    if verdict.items_missing is not None:
        missing = count(verdict.items_missing)
        figures.append(Figure("Items missing", missing, "more general items needed to decide"))
    return figures


def _gain(ledger: Sequence[LedgerRow], verdict: Verdict, level: str) -> Figure:
    """The bound of the target row that decides; perplexity has to fall and is not in points."""
    target = next((row for row in ledger if row.kind == "target"), None)
    if target is not None and is_loss(target) and target.passed and target.bound is not None:
        return Figure("Certified perplexity", signed(target.bound, 2), f"change at most, {level}")
    if verdict.headline is not None:
        name, certified = verdict.headline
        note = f"target gain within the budget, points at least, {level}"
        return Figure(name, signed(certified, 2), note)
    gain = verdict.certified_target_gain
    budget = "no budget applies" if verdict.decision == "release" else "not within the budget"
    note = f"points at least, {level}; {budget}"
    return Figure(
        "Certified target gain",
        signed(gain, 2),
        note if gain is not None else "no gain could be certified",
    )


def _drawn(name: str, rows: list[Row], budget: float | None) -> DrawnGroup:
    """Draw a group; general ability has a budget line at -budget points."""
    line = -budget if budget is not None and name == GENERAL else None
    bounds = [(row.source.low * row.unit, row.source.high * row.unit) for row in rows]
    scale = svg.forest_axis(bounds, [] if line is None else [line])
    drawings = [
        svg.forest_row(
            (low, row.source.delta * row.unit, high), scale, line, row.tone, _alt_text(row)
        )
        for row, (low, high) in zip(rows, bounds, strict=True)
    ]
    return DrawnGroup(
        name,
        _unit(rows[0].source),
        svg.forest_ticks(scale),
        list(zip(rows, drawings, strict=True)),
    )


def _unit(row: LedgerRow) -> str:
    """The unit of a group, and whether higher is worse."""
    unit = "points" if in_points(row) else _UNITS.get(row.metric, row.metric)
    return f"{unit}, higher is worse" if is_loss(row) else unit


def _alt_text(row: Row) -> str:
    return f"{row.name}: {row.delta}, interval {row.interval}"


def _confidence(contents: Contents) -> str:
    levels = {row.confidence for row in contents.ledger}
    return f"{levels.pop() * 100:g}%" if len(levels) == 1 else ""


def _flips(contents: Contents) -> list[Flips]:
    """Lost and gained items of target and general suite, largest change first."""
    target = {row.task for row in contents.ledger if row.kind == "target"}
    lists = []
    for title, inside in (("Target", True), (GENERAL, False)):
        changes = [
            (task, base, tuned)
            for task, pairs in contents.pairs.items()
            if (task in target) == inside
            for base, tuned in pairs
            if base.score != tuned.score
        ]
        changes.sort(key=lambda change: -abs(change[1].score - change[2].score))
        lost = [change for change in changes if change[2].score < change[1].score]
        gained = [change for change in changes if change[2].score > change[1].score]
        lists.append(Flips(title, "lost", len(lost), lost[:MOST_ITEMS]))
        lists.append(Flips(title, "gained", len(gained), gained[:MOST_ITEMS]))
    return lists


def _frontier(contents: Contents) -> dict[str, Any]:
    """The search over checkpoints and scales; empty for a run without a general suite."""
    frontier = contents.frontier
    return {
        "candidates": shown_candidates(frontier) if frontier else [],
        "frontier_plot": frontier_plot(frontier, contents.budget) if frontier else None,
        "attempts": [event for event in contents.events if event["phase"] == "heal"],
    }


def _training(contents: Contents) -> dict[str, Any]:
    """Learning curves and training figures."""
    losses = _points(contents, "train", "loss")
    checks = _points(contents, "validation", "loss")
    saved = [event["step"] for event in contents.events if event["phase"] == "checkpoint"]
    steps = [x for x, _ in (*losses, *checks)]
    marks = sorted({step for step in saved if steps and min(steps) <= step <= max(steps)})
    smooth = svg.Series("training, smoothed", "smooth", svg.smoothed(losses))
    curves = [
        svg.Series("training loss", "raw", losses),
        *([smooth] if len(losses) > 30 else []),
        svg.Series("validation loss", "validation", checks, dots=True),
    ]
    rates = svg.Series("", "smooth", _points(contents, "train", "learning_rate"))
    speeds = svg.Series("", "raw", _points(contents, "train", "tokens_per_second"))
    return {
        "loss_plot": svg.line_plot(curves, "Training and validation loss by step", marks),
        "rate_plot": svg.line_plot([rates], "Learning rate by step"),
        "speed_plot": svg.line_plot([speeds], "Tokens per second by step"),
        "saved": len(marks),
        "training_figures": _training_figures(contents, losses, checks),
    }


def _training_figures(contents: Contents, losses: svg.Points, checks: svg.Points) -> list[Figure]:
    speeds = [y for _, y in _points(contents, "train", "tokens_per_second")]
    memory = [y for _, y in _points(contents, "train", "memory_mb")]
    best = min(checks, key=lambda point: point[1], default=None)
    speed = number(statistics.median(speeds), 0) if speeds else MISSING
    return [
        Figure("Steps", count(int(losses[-1][0])) if losses else MISSING, "optimizer steps"),
        Figure(
            "Best validation loss",
            number(best[1], 3) if best else MISSING,
            f"at step {best[0]:,.0f}" if best else "not measured",
        ),
        Figure("Speed", speed, "tokens per second"),
        Figure("Peak memory", number(max(memory), 0) if memory else MISSING, "MB"),
    ]


def _points(contents: Contents, phase: str, key: str) -> svg.Points:
    """Finite values by step; after resuming, the later event of a step counts."""
    values = {
        event["step"]: event[key]
        for event in contents.events
        if event["phase"] == phase and event.get("step") is not None
        if event.get(key) is not None and math.isfinite(event[key])
    }
    return sorted(values.items())


def _facts(contents: Contents) -> list[tuple[str, dict[str, str]]]:
    """The manifest without the recipe, by topic."""
    manifest = contents.manifest
    changed = {c["key"]: f"{plain(c['before'])} → {plain(c['after'])}" for c in manifest.changes}
    topics: list[tuple[str, Mapping[str, Any]]] = [
        ("Model", manifest.model),
        ("Data", manifest.data),
        ("Training", manifest.training),
        ("Versions", manifest.versions),
        ("Host", {key: value for key, value in manifest.host.items() if key != "command"}),
        ("Changed when the run was resumed", changed),
    ]
    formatted = [(name, {k: plain(v) for k, v in flat(values).items()}) for name, values in topics]
    parts = shares(manifest.times)
    times = {key: f"{duration(value)} ({parts[key]:.0%})" for key, value in manifest.times.items()}
    return [(name, values) for name, values in [*formatted, ("Time by phase", times)] if values]
