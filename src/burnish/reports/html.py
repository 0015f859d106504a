"""The report: one HTML page that holds all of its style and charts and asks nothing of a network.

It reads the run directory and nothing else, so it can be written again at any time, also for a run
that is not finished: what is missing is then said, with the command that goes on.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
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
from burnish.runs.directory import ItemResult, LedgerRow, RunDirectory, Verdict, write_atomic
from burnish.runs.times import shares

MOST_ITEMS = 200  # items shown in each list of lost or gained ones
_MOST_TABLE_LABELS, _MOST_MAP_LABELS, _MOST_CONFUSIONS = 12, 80, 15
_FOLD, _CUT = 280, 4000  # letters shown at once, letters kept in the page
OTHER = "other answer"

_DECISIONS = {
    "release": ("Release", "The gain is real and the forgetting stays inside the budget."),
    "hold": ("Hold", "This model should not replace the base model."),
    "inconclusive": ("Inconclusive", "The measurements cannot decide at this confidence."),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of the head of the page."""

    label: str
    value: str
    note: str
    used: float | None = None  # share of the budget that is used, for the meter


@dataclass(frozen=True, slots=True)
class DrawnGroup:
    """Rows of the ledger that share one axis."""

    name: str
    unit: str
    ticks: Markup
    rows: list[tuple[Row, Markup]]


@dataclass(frozen=True, slots=True)
class Flips:
    """Items that one model got right and the other did not."""

    title: str
    direction: str
    total: int
    shown: list[tuple[str, ItemResult, ItemResult]]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Expected labels against answered ones; answers that are no label are `OTHER`."""

    labels: list[str]
    columns: list[str]
    counts: Counter[tuple[str, str]]
    totals: Counter[str]
    worst: list[tuple[str, str, int]]
    picture: Markup | None

    @property
    def as_table(self) -> bool:
        return len(self.labels) <= _MOST_TABLE_LABELS


def write_page(run: RunDirectory) -> Path:
    """Writes `report.html` of a finished or unfinished run, whole or not at all.

    Raises:
        RunError: a file of the run is half written.
    """
    path = run.path / "report.html"
    write_atomic(path, _render(read_contents(run)))
    return path


def _render(contents: Contents) -> str:
    environment = Environment(
        loader=PackageLoader("burnish.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plain=plain, count=count, fold=fold)
    manifest = contents.manifest
    return environment.get_template("report.html.j2").render(
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
    """What is seen at once, what unfolds, and the number of letters left out of the page."""
    head, rest = text[:_FOLD], text[_FOLD:_CUT]
    space = head.rfind(" ")
    if rest and space > _FOLD // 2:
        head, rest = text[:space], text[space:_CUT]
    return head, rest, max(0, len(text) - _CUT)


def confusion(answers: Sequence[ItemResult]) -> Confusion | None:
    """None where the expected answers are no labels: hardly any of them comes twice."""
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
    """The label that was answered; the scorer may have accepted another spelling."""
    if item.score == 1.0:
        return item.expected.strip()
    return known.get(item.answer.strip().casefold(), OTHER)


def _decision(contents: Contents) -> tuple[str, str, str]:
    verdict = contents.verdict
    if verdict is None:
        return "open", "Not certified yet", "The run has not reached its certificate."
    word, lead = _DECISIONS[verdict.decision]
    if verdict.decision == "release" and all(row.kind != "general" for row in contents.ledger):
        lead = "The gain is real, and this model has no general ability to lose."
    return verdict.decision, word, lead


def _figures(contents: Contents) -> list[Figure]:
    verdict = contents.verdict
    if verdict is None:
        return []
    sure = f"{verdict.confidence * 100:g} % confidence"
    drop = verdict.certified_general_drop
    figures = [
        _gain(contents.ledger, verdict, sure),
        Figure(
            "Certified general drop",
            number(drop, 2),
            f"points at most, {sure}" if drop is not None else "no bound is certified",
            None if drop is None else min(max(drop / verdict.budget, 0.0), 1.0),
        ),
        Figure("Forgetting budget", number(verdict.budget, 2), "points that the recipe allows"),
    ]
    if verdict.items_missing is not None:
        missing = count(verdict.items_missing)
        figures.append(Figure("Items missing", missing, "general items more would decide"))
    return figures


def _gain(ledger: Sequence[LedgerRow], verdict: Verdict, sure: str) -> Figure:
    """The bound of the deciding target row; perplexity has to fall, and is no points."""
    target = next((row for row in ledger if row.kind == "target"), None)
    if target is not None and is_loss(target) and target.passed and target.bound is not None:
        return Figure("Certified perplexity", signed(target.bound, 2), f"at most, {sure}")
    if verdict.headline is not None:
        name, gain = verdict.headline
        note = f"target gain inside the budget, points at least, {sure}"
        return Figure(name, signed(gain, 2), note)
    shown = verdict.certified_target_gain
    beside = "no budget applies" if verdict.decision == "release" else "not inside the budget"
    note = f"points at least, {sure}; {beside}"
    return Figure(
        "Certified target gain",
        signed(shown, 2),
        note if shown is not None else "no gain is certified",
    )


def _drawn(name: str, rows: list[Row], budget: float | None) -> DrawnGroup:
    """The budget is a line at -budget points in the group of general ability only."""
    line = -budget if budget is not None and name == GENERAL else None
    bounds = [(row.source.low * row.unit, row.source.high * row.unit) for row in rows]
    scale = svg.forest_axis(bounds, [] if line is None else [line])
    drawings = [
        svg.forest_row((low, row.source.delta * row.unit, high), scale, line, row.tone, _aloud(row))
        for row, (low, high) in zip(rows, bounds, strict=True)
    ]
    return DrawnGroup(
        name,
        _unit(rows[0].source),
        svg.forest_ticks(scale),
        list(zip(rows, drawings, strict=True)),
    )


def _unit(row: LedgerRow) -> str:
    """What the numbers of a group are, and which side is the worse one."""
    unit = "points" if in_points(row) else row.metric
    return f"{unit}, more is worse" if is_loss(row) else unit


def _aloud(row: Row) -> str:
    return f"{row.name}: {row.delta}, interval {row.interval}"


def _confidence(contents: Contents) -> str:
    levels = {row.confidence for row in contents.ledger}
    return f"{levels.pop() * 100:g} %" if len(levels) == 1 else ""


def _flips(contents: Contents) -> list[Flips]:
    """Lost before gained, the target before the general suite; the largest change first."""
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
    """The search among checkpoints and scales; a run without a general suite has none."""
    found = contents.frontier
    return {
        "candidates": shown_candidates(found) if found else [],
        "frontier_plot": frontier_plot(found, contents.budget) if found else None,
        "attempts": [event for event in contents.events if event["phase"] == "heal"],
    }


def _training(contents: Contents) -> dict[str, Any]:
    """Learning curves and the figures beside them."""
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
        "speed_plot": svg.line_plot([speeds], "Tokens a second by step"),
        "saved": len(marks),
        "training_figures": _training_figures(contents, losses, checks),
    }


def _training_figures(contents: Contents, losses: svg.Points, checks: svg.Points) -> list[Figure]:
    speeds = [y for _, y in _points(contents, "train", "tokens_per_second")]
    memory = [y for _, y in _points(contents, "train", "memory_mb")]
    best = min(checks, key=lambda point: point[1], default=None)
    return [
        Figure("Steps", count(int(losses[-1][0])) if losses else MISSING, "optimizer steps"),
        Figure(
            "Best validation loss",
            number(best[1], 3) if best else MISSING,
            f"at step {best[0]:,.0f}" if best else "not measured",
        ),
        Figure("Speed", number(statistics.median(speeds), 0) if speeds else MISSING, "tokens/s"),
        Figure("Peak memory", number(max(memory), 0) if memory else MISSING, "MB"),
    ]


def _points(contents: Contents, phase: str, key: str) -> svg.Points:
    """Finite values by step; after a resume the later event of a step counts."""
    values = {
        event["step"]: event[key]
        for event in contents.events
        if event["phase"] == phase and event.get("step") is not None
        if event.get(key) is not None and math.isfinite(event[key])
    }
    return sorted(values.items())


def _facts(contents: Contents) -> list[tuple[str, dict[str, str]]]:
    """Everything of the manifest beside the recipe, by topic."""
    manifest = contents.manifest
    changed = {c["key"]: f"{plain(c['before'])} → {plain(c['after'])}" for c in manifest.changes}
    topics: list[tuple[str, Mapping[str, Any]]] = [
        ("Model", manifest.model),
        ("Data", manifest.data),
        ("Training", manifest.training),
        ("Versions", manifest.versions),
        ("Host", {key: value for key, value in manifest.host.items() if key != "command"}),
        ("Changed before it was continued", changed),
    ]
    worded = [(name, {k: plain(v) for k, v in flat(values).items()}) for name, values in topics]
    parts = shares(manifest.times)
    times = {key: f"{duration(value)} ({parts[key]:.0%})" for key, value in manifest.times.items()}
    return [(name, values) for name, values in [*worded, ("Time by phase", times)] if values]
