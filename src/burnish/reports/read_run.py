"""Reads a run directory once and formats its content for the HTML report and the model card.

A stage that has not run yet is None or empty; an incomplete file raises RunError. A number that was
not measured is shown as a dash, never as 0.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from burnish.errors import RunError, quantity
from burnish.parity.record import read_parity
from burnish.recipe.objectives import find_settings
from burnish.runs.candidates import Frontier
from burnish.runs.directory import (
    Finding,
    ItemResult,
    Kind,
    LedgerRow,
    Manifest,
    RunDirectory,
    Verdict,
)
from burnish.runs.json_lines import read_lines
from burnish.runs.levels import LevelChoice
from burnish.runs.overlaps import Leakage

MISSING = "–"
GENERAL = "General ability"
# The groups of the ledger in order; the suite mean comes before the sections.
_GROUPS: dict[Kind, str] = {
    "target": "Target",
    "earlier": "Tasks of earlier stages",
    "general": GENERAL,
    "subset": GENERAL,
    "section": GENERAL,
    "text_loss": "Text loss",
    "bias": "Stereotypes",
    "kl": "Divergence from the base",
}
SPLITS = ("train", "validation", "test")
Pairs = list[tuple[ItemResult, ItemResult]]


@dataclass(frozen=True, slots=True)
class SplitFile:
    """The file of one data split."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that the reports show; `pairs` maps a task to (base, tuned) items by id."""

    path: Path
    manifest: Manifest
    splits: list[SplitFile]
    findings: list[Finding] | None
    events: list[dict[str, Any]]
    leakage: Leakage | None
    ledger: list[LedgerRow]
    verdict: Verdict | None
    answers: list[ItemResult]  # the tuned model on the test set
    pairs: dict[str, Pairs]
    frontier: Frontier | None = None
    parity: str | None = None  # the parity certificate in one sentence
    levels: list[LevelChoice] = field(default_factory=list)

    @property
    def budget(self) -> float | None:
        """Points by which general ability may fall; None if the recipe sets none."""
        if self.verdict is not None:
            return self.verdict.budget
        value = flat(self.manifest.recipe).get("budget.general")
        return None if value is None else float(value)

    @property
    def labelled(self) -> list[ItemResult]:
        """The answers that may be labels; none for a tagger, whose answers are rows of tags."""
        settings = find_settings(str(self.manifest.recipe.get("objective")))
        tags = settings is not None and settings.head is not None and settings.head.kind == "tag"
        return [] if tags else self.answers

    @property
    def command(self) -> str | None:
        """The command line of the run, if it was recorded."""
        command = self.manifest.host.get("command")
        return None if command is None else str(command)

    @property
    def next_command(self) -> str:
        """The command that continues an unfinished run."""
        if self.manifest.state in ("trained", "evaluated"):
            return f"burnish evaluate {self.path}"
        command = self.command or "burnish run recipe.yaml"
        return command if "--resume" in command else f"{command} --resume"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the pipeline, with a sentence for the case that it is missing."""

    name: str
    done: bool
    missing: str


@dataclass(frozen=True, slots=True)
class Row:
    """A formatted ledger row: points with one decimal; perplexity and nats with three."""

    source: LedgerRow
    unit: float  # factor of the numbers: 100 for points
    name: str
    n: str
    base: str
    tuned: str
    delta: str
    interval: str
    bound: str
    lost: str
    gained: str
    p: str
    tone: str  # better, worse or level: whether the interval excludes zero, and on which side


def read_contents(run: RunDirectory) -> Contents:
    """Read every file of a run once.

    Raises:
        RunError: a file is incomplete, or a certified run has no ledger or verdict.
    """
    manifest = run.manifest()
    certified = manifest.state == "certified"
    parity = read_parity(run.path)
    with _readable(run):
        ledger = run.ledger() if certified or (run.path / "ledger.json").exists() else []
        return Contents(
            path=run.path,
            manifest=manifest,
            splits=_splits(run),
            findings=run.findings() if (run.path / "data" / "findings.jsonl").exists() else None,
            events=run.events(),
            leakage=run.leakage(),
            ledger=ledger,
            verdict=run.verdict() if certified or (run.path / "verdict.json").exists() else None,
            answers=run.results("tuned", "target"),
            pairs={task: _pairs(run, task) for task in _item_tasks(ledger)},
            frontier=run.frontier() if (run.path / "frontier.json").exists() else None,
            parity=parity.sentence if parity is not None and parity.comparisons else None,
            levels=run.levels(),
        )


def stages(contents: Contents) -> list[Stage]:
    """The stages of the pipeline in order, for an unfinished run."""
    state = contents.manifest.state
    trained = state in ("trained", "evaluated", "certified")
    evaluated = state in ("evaluated", "certified")
    return [
        Stage("Data checked", bool(contents.splits), "The data splits have not been written yet."),
        Stage("Trained", trained, "Training has not finished yet."),
        Stage("Evaluated", evaluated, "Base and tuned model have not been compared yet."),
        Stage(
            "Certified",
            contents.verdict is not None,
            "Gain and forgetting have not been certified, so there is no verdict yet.",
        ),
    ]


def ledger_groups(rows: Iterable[LedgerRow]) -> list[tuple[str, list[Row]]]:
    """Formatted rows, grouped by what they measure."""
    groups: dict[str, list[Row]] = {}
    rows = sorted(rows, key=lambda row: list(_GROUPS).index(row.kind))
    several = sum(row.kind == "general" for row in rows) > 1
    for row in rows:
        formatted = format_row(row)
        if several and row.kind == "general":
            formatted = replace(formatted, name=f"{row.task} mean")
        if several and row.kind == "subset":
            suite = row.task.rpartition(".")[0]
            formatted = replace(formatted, name=f"{formatted.name} of {suite}")
        groups.setdefault(_GROUPS[row.kind], []).append(formatted)
    return list(groups.items())


def format_row(row: LedgerRow) -> Row:
    """Format the numbers of one ledger row for all reports."""
    unit, digits = (100.0, 1) if in_points(row) else (1.0, 3)
    return Row(
        source=row,
        unit=unit,
        name=_name(row),
        n=count(row.n),
        base=number(row.base * unit, digits),
        tuned=number(row.tuned * unit, digits),
        delta=signed(row.delta * unit, digits),
        interval=f"{signed(row.low * unit, digits)} to {signed(row.high * unit, digits)}",
        bound=signed(None if row.bound is None else row.bound * unit, digits),
        lost=count(row.lost),
        gained=count(row.gained),
        p=probability(row.p),
        tone=_tone_of(row),
    )


def _name(row: LedgerRow) -> str:
    if row.kind == "general":
        return "suite mean"
    if row.kind == "subset":
        return f"mean of the {row.task.rpartition('.')[2]} sections"
    return row.task.rpartition(".")[2] + (" (excluded from the mean)" if row.excluded else "")


def leakage_line(leakage: Leakage, ledger: Iterable[LedgerRow]) -> str:
    """A sentence on the overlaps of the evaluation sets with the training data and each other."""
    shared = _shared(leakage)
    if not leakage.leaked and not shared:
        judging = (one.name for one in leakage.judging)
        suites = (name if name.endswith("test") else name.partition(".")[0] for name in judging)
        sets = dict.fromkeys([*(one.name for one in leakage.learnt), *suites])
        return f"{', '.join(sets)}: no overlap."
    if not leakage.leaked:
        return f"No evaluation item is in the training data. {shared}"
    excluded = {row.task for row in ledger if row.excluded}
    learnt = [
        f"{one.leaked} of {quantity(one.rows, 'item')} of {one.name}"
        + (" (excluded from the suite mean)" if one.name in excluded else "")
        for one in leakage.judging
        if one.leaked
    ]
    leaked = f"In the training data, so the scores may be too high: {', '.join(learnt)}."
    return f"{leaked} {shared}".rstrip()


def _shared(leakage: Leakage) -> str:
    """A sentence on the items that two evaluation sets share; empty if there are none."""
    rows = {one.name: one.rows for one in leakage.judging}

    def of(name: str) -> str:
        return f"of {quantity(rows[name], 'item')} of {name}"

    held: Counter[tuple[str, str]] = Counter()
    for overlap in leakage.overlaps:
        if overlap.seen in rows:
            held[overlap.judging, overlap.seen] += overlap.items
    shared = [
        quantity(items, f"{of(name)} is", f"{of(name)} are") + f" also in {other}"
        for (name, other), items in held.items()
        if items
    ]
    return f"Found in two evaluation sets: {', '.join(shared)}." if shared else ""


def is_loss(row: LedgerRow) -> bool:
    """Whether lower is better: text loss, stereotypes, and perplexity as a target."""
    return row.kind in ("text_loss", "bias") or row.metric == "perplexity"


def in_points(row: LedgerRow) -> bool:
    """Whether the numbers are rates, shown in points; nats and perplexity are not."""
    return row.kind not in ("text_loss", "kl") and row.metric != "perplexity"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; an empty mapping counts as None."""
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[f"{prefix}{key}"] = None if value == {} else value
    return pairs


def number(value: float | None, digits: int) -> str:
    """Format with fixed decimals and a minus sign; a value that rounds to 0 has no sign."""
    if value is None:
        return MISSING
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int) -> str:
    """Format like `number`, with a plus sign for positive values."""
    return ("+" if value is not None and round(value, digits) > 0 else "") + number(value, digits)


def count(value: int | None) -> str:
    """Format a count with thousands separators."""
    return MISSING if value is None else f"{value:,}"


def probability(p: float | None) -> str:
    """Format a p value with three decimals."""
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def plain(value: Any) -> str:
    """Format any value of the manifest."""
    if value is None or value in ("", [], ()):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def duration(seconds: float) -> str:
    """Format seconds: 3.2 s, 12 min 34 s, 2 h 1 min."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours or minutes:
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest:.0f} s"
    return f"{rest:.1f} s"


@contextmanager
def _readable(run: RunDirectory) -> Iterator[None]:
    try:
        yield
    except (TypeError, KeyError, ValueError) as error:
        raise RunError(
            f"{run.path} contains a file that is incomplete or from another version ({error})",
            "delete the folder and start the run again, or start again with another --name",
            code="run_unreadable",
            path=str(run.path),
            error=str(error),
        ) from error


def _splits(run: RunDirectory) -> list[SplitFile]:
    paths = [(name, run.path / "data" / f"{name}.jsonl") for name in SPLITS]
    return [_split(name, path) for name, path in paths if path.exists()]


def _split(name: str, path: Path) -> SplitFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SplitFile(name, sum(1 for _ in read_lines(path)), digest)


def _item_tasks(ledger: list[LedgerRow]) -> list[str]:
    """Tasks with right and wrong answers, whose items can be lost or gained."""
    rows = [row for row in ledger if row.kind in ("target", "section") and not is_loss(row)]
    return list(dict.fromkeys(row.task for row in rows))


def _pairs(run: RunDirectory, task: str) -> Pairs:
    base = {item.id: item for item in run.results("base", task)}
    return [(base[item.id], item) for item in run.results("tuned", task) if item.id in base]


def _tone_of(row: LedgerRow) -> str:
    if row.kind == "kl":  # a divergence is neither better nor worse
        return "level"
    return _tone(-row.high, -row.low) if is_loss(row) else _tone(row.low, row.high)


def _tone(low: float, high: float) -> str:
    if low > 0:
        return "better"
    return "worse" if high < 0 else "level"
