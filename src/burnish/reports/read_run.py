"""What a run directory holds, read once and worded for people: the page and the card share it.

A stage that has not run yet is None or empty; a file that is half written raises RunError. A
number that was not measured is written as a dash, never as 0.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from burnish.errors import RunError
from burnish.parity.record import read_parity
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
from burnish.runs.overlaps import Leakage

MISSING = "–"
GENERAL = "General ability"
# The groups of the ledger in their order; the mean of the suite stands before its sections.
_GROUPS: dict[Kind, str] = {
    "target": "Target",
    "earlier": "Tasks of earlier stages",
    "general": GENERAL,
    "section": GENERAL,
    "text_loss": "Text loss",
    "bias": "Stereotypes",
    "kl": "Distance from the base",
}
SPLITS = ("train", "validation", "test")
Pairs = list[tuple[ItemResult, ItemResult]]


@dataclass(frozen=True, slots=True)
class SplitFile:
    """One split as it lies in the run directory."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Contents:
    """All that the reports know. `pairs` maps a task to (base, tuned) items with equal ids."""

    path: Path
    manifest: Manifest
    splits: list[SplitFile]
    findings: list[Finding] | None
    events: list[dict[str, Any]]
    leakage: Leakage | None
    ledger: list[LedgerRow]
    verdict: Verdict | None
    answers: list[ItemResult]  # the tuned model on the target test
    pairs: dict[str, Pairs]
    frontier: Frontier | None = None
    parity: str | None = None  # the certificate of parity in one sentence

    @property
    def budget(self) -> float | None:
        """Points that general ability may fall; None where the recipe sets none."""
        if self.verdict is not None:
            return self.verdict.budget
        value = flat(self.manifest.recipe).get("budget.general")
        return None if value is None else float(value)

    @property
    def labelled(self) -> list[ItemResult]:
        """The answers that may be labels; one that is a whole row of tags is none."""
        return [] if self.manifest.recipe.get("objective") == "tag" else self.answers

    @property
    def command(self) -> str | None:
        """The command line that made the run, where it was recorded."""
        command = self.manifest.host.get("command")
        return None if command is None else str(command)

    @property
    def next_command(self) -> str:
        """What continues an unfinished run."""
        if self.manifest.state in ("trained", "evaluated"):
            return f"burnish evaluate {self.path}"
        command = self.command or "burnish run recipe.yaml"
        return command if "--resume" in command else f"{command} --resume"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the pipeline, and what its absence means for the reader."""

    name: str
    done: bool
    missing: str


@dataclass(frozen=True, slots=True)
class Row:
    """A ledger row in words: points with one decimal; perplexity and nats as they are."""

    source: LedgerRow
    unit: float  # what the numbers were multiplied with: 100 for points
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
    tone: str  # better, worse or level: whether the interval leaves zero, and to which side


def read_contents(run: RunDirectory) -> Contents:
    """Reads every file once.

    Raises:
        RunError: a file is half written, or a certified run lacks its ledger or its verdict.
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
        )


def stages(contents: Contents) -> list[Stage]:
    """The pipeline in order, for a run that stopped on the way."""
    state = contents.manifest.state
    trained = state in ("trained", "evaluated", "certified")
    evaluated = state in ("evaluated", "certified")
    return [
        Stage("Data checked", bool(contents.splits), "No split is written yet."),
        Stage("Trained", trained, "There is no finished adapter yet."),
        Stage("Measured", evaluated, "Base and tuned are not compared on all tasks yet."),
        Stage(
            "Certified",
            contents.verdict is not None,
            "Gain and forgetting are not certified, so there is no decision yet.",
        ),
    ]


def ledger_groups(rows: Iterable[LedgerRow]) -> list[tuple[str, list[Row]]]:
    """Rows by what they measure."""
    groups: dict[str, list[Row]] = {}
    rows = sorted(rows, key=lambda row: list(_GROUPS).index(row.kind))
    several = sum(row.kind == "general" for row in rows) > 1
    for row in rows:
        told = worded(row)
        if several and row.kind == "general":
            told = replace(told, name=f"{row.task} mean")
        groups.setdefault(_GROUPS[row.kind], []).append(told)
    return list(groups.items())


def worded(row: LedgerRow) -> Row:
    """The numbers of one row as they are shown everywhere."""
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
    return row.task.rpartition(".")[2] + (" (not in the mean)" if row.excluded else "")


def leakage_line(leakage: Leakage, ledger: Iterable[LedgerRow]) -> str:
    """Whether what judges was learnt from, or judges twice, in words."""
    shared = _shared(leakage)
    if not leakage.leaked and not shared:
        judging = (found.name for found in leakage.judging)
        suites = (name if name.endswith("test") else name.partition(".")[0] for name in judging)
        sets = dict.fromkeys([*(found.name for found in leakage.learnt), *suites])
        return f"{', '.join(sets)}: disjoint."
    if not leakage.leaked:
        return f"Nothing that judges was learnt. {shared}"
    left_out = {row.task for row in ledger if row.excluded}
    learnt = [
        f"{found.leaked} of {found.rows} items of {found.name}"
        + (" (left out of the suite mean)" if found.name in left_out else "")
        for found in leakage.judging
        if found.leaked
    ]
    return f"Learnt, and so no fair measure: {', '.join(learnt)}. {shared}".rstrip()


def _shared(leakage: Leakage) -> str:
    """What two sets that judge have in common, as a sentence; empty where they have nothing."""
    rows = {found.name: found.rows for found in leakage.judging}
    held: Counter[tuple[str, str]] = Counter()
    for overlap in leakage.overlaps:
        if overlap.seen in rows:
            held[overlap.judging, overlap.seen] += overlap.items
    found = [
        f"{items} of {rows[name]} items of {name} in {other}"
        for (name, other), items in held.items()
        if items
    ]
    return f"Standing in two sets that judge: {', '.join(found)}." if found else ""


def is_loss(row: LedgerRow) -> bool:
    """Whether less is better: text loss, stereotypes, and perplexity as a target."""
    return row.kind in ("text_loss", "bias") or row.metric == "perplexity"


def in_points(row: LedgerRow) -> bool:
    """Whether the numbers are rates; nats and perplexity are shown as they are."""
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
    """A fixed number of decimals with a true minus; a value that rounds to 0 has no sign."""
    if value is None:
        return MISSING
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int) -> str:
    """As `number`, with a plus before gains."""
    return ("+" if value is not None and round(value, digits) > 0 else "") + number(value, digits)


def count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def probability(p: float | None) -> str:
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def plain(value: Any) -> str:
    """Any value of the manifest."""
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
    """Seconds in words: 3.2 s, 12 min 34 s, 2 h 1 min."""
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
            f"{run.path} holds a file that is half written or of another version ({error})",
            "delete the folder and run again, or start again under another --name",
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
    """Tasks whose items can be lost or gained; texts have a loss, but no right answer."""
    kept = [row for row in ledger if row.kind in ("target", "section") and not is_loss(row)]
    return list(dict.fromkeys(row.task for row in kept))


def _pairs(run: RunDirectory, task: str) -> Pairs:
    base = {item.id: item for item in run.results("base", task)}
    return [(base[item.id], item) for item in run.results("tuned", task) if item.id in base]


def _tone_of(row: LedgerRow) -> str:
    if row.kind == "kl":  # every change is some distance from the base, to whichever side
        return "level"
    return _tone(-row.high, -row.low) if is_loss(row) else _tone(row.low, row.high)


def _tone(low: float, high: float) -> str:
    if low > 0:
        return "better"
    return "worse" if high < 0 else "level"
