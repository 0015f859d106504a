"""The run directory: the only interface between the stages.

Every file is written atomically (temporary name, flush, rename) or appended line by line, so a
reader never sees an incomplete file. Reports and monitors read these files and never live objects.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from burnish.conversation import Example
from burnish.errors import RunError, quantity
from burnish.recipe.paths import expanded
from burnish.runs.atomic import new_folder, write_atomic, write_lines
from burnish.runs.candidates import Frontier
from burnish.runs.finding import Finding as Finding
from burnish.runs.json_lines import append_line, from_json, read_lines
from burnish.runs.levels import LevelChoice
from burnish.runs.overlaps import Leakage

Decision = Literal["release", "hold", "inconclusive"]
State = Literal["created", "training", "trained", "evaluated", "certified"]
Kind = Literal["target", "general", "subset", "section", "text_loss", "bias", "kl", "earlier"]


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item of one task under one model.

    `score` is 1.0 or 0.0 (yes or no), a grade in [0, 1], or nats per token for text loss and KL.
    `logprob` is the summed log-probability of the answer in nats, or None.
    """

    id: str
    prompt: str
    expected: str
    answer: str
    score: float
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Base against tuned on one task. Rates and scores lie in [0, 1]; text loss and KL are nats.

    `low` and `high` bound the paired difference `delta` = tuned - base two-sided at `confidence`;
    `bound` is the one-sided bound on the side that matters for the decision, at the verdict's
    confidence if the row decides and at 95% otherwise. `lost` and `gained` count flips of yes/no
    items; `p` is McNemar's mid-p. `excluded` is the reason why a section is not in the suite mean.
    Values that do not apply are None.
    """

    task: str
    kind: Kind
    metric: str
    n: int
    base: float
    tuned: float
    delta: float
    low: float
    high: float
    confidence: float = 0.95
    bound: float | None = None
    lost: int | None = None
    gained: int | None = None
    p: float | None = None
    budget: float | None = None
    passed: bool | None = None
    excluded: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision and its reasons in words. Gains and drops are in points (1 = 0.01)."""

    decision: Decision
    reasons: tuple[str, ...]
    budget: float
    confidence: float
    certified_target_gain: float | None
    certified_general_drop: float | None
    items_missing: int | None = None

    @property
    def headline(self) -> tuple[str, float] | None:
        """TG@X: the certified target gain of a model within the budget of X points.

        None if nothing is released, the target is not in points, or no general ability was
        measured.
        """
        gain = self.certified_target_gain
        if self.decision != "release" or gain is None or self.certified_general_drop is None:
            return None
        return f"TG@{self.budget:g}", gain


@dataclass
class Manifest:
    """Everything that is needed to repeat the run.

    `lineage` describes the run that this one started from (path, model, method, hash of its tuned
    weights, how it was used, its own lineage); it is empty for a run that started from the base
    model. `changes` lists recipe values that changed when the run was resumed: key, before, after,
    and the state of the run. `adopted` is True if another tool trained the adapter. `times` are the
    seconds of each phase, over every time that the run was started or resumed.
    """

    name: str
    state: State
    recipe: dict[str, Any]
    origins: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    adopted: bool = False


class RunDirectory:
    """Typed reading and atomic writing of one run's files.

    Raises:
        RunError: the directory cannot be created, is not a run, or is incomplete.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = expanded(path)

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> "RunDirectory":
        """Create a new run; an existing directory has to be empty."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"{path} already exists",
                "choose another --name, or continue it with --resume",
                code="run_exists",
                path=str(path),
            )
        try:
            with new_folder(path) as new:  # a folder without a manifest is not a run
                cls(new).write_manifest(manifest)
        except OSError as error:
            raise RunError(
                f"cannot write to {path} ({error.strerror})",
                "choose a folder with write access with --output",
                code="folder_not_writable",
                path=str(path),
                reason=error.strerror,
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> "RunDirectory":
        """Open an existing run, with a readable manifest; not the folder of several stages."""
        run = cls(path)
        if stages := run.manifest().lineage.get("stages"):
            seen = f"{path} contains {quantity(len(stages), 'stage')}; each stage is a run"
            raise RunError(
                seen,
                f"choose one of them, such as {stages[-1]}",
                code="run_of_stages",
                path=str(path),
                stages=stages,
            )
        for name in ("adapter", "model"):  # a kill between the renames of `replace_directory`
            old = run.path / f".{name}.old"
            if old.exists() and not (run.path / name).exists():
                old.replace(run.path / name)
        return run

    @property
    def adapter(self) -> Path:
        """The tuned weights: `adapter/` in PEFT format, or `model/` after full tuning."""
        full = self.path / "model"
        return full if full.exists() else self.path / "adapter"

    @property
    def earlier(self) -> Path:
        """A copy of the run that this one started from: its manifest and tuned weights."""
        return self.path / "earlier"

    @property
    def cert_uses(self) -> Path:
        """Looks at the certification items, one per line; those of `earlier` count too."""
        return self.path / "cert-uses.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            RunError: the folder is not a run, or its manifest is invalid.
        """
        row, known = self._read_json("manifest.json"), {item.name for item in fields(Manifest)}
        keys = row.keys() if isinstance(row, dict) else set()
        if not {"name", "state", "recipe", "origins"} <= keys <= known:
            raise RunError(
                f"{self.path}/manifest.json is not a Burnish manifest",
                "choose the folder of a run",
                code="not_a_manifest",
                path=f"{self.path}/manifest.json",
            )
        return Manifest(**row)

    def write_manifest(self, manifest: Manifest) -> None:
        self._write_json("manifest.json", asdict(manifest))

    def write_split(self, split: str, examples: Iterable[Example], task: str = "") -> None:
        """Write the rows of a split; `task` is the name of an additional data set, if any."""
        write_lines(self.path / "data" / task / f"{split}.jsonl", (e.to_row() for e in examples))

    def split(self, split: str, task: str = "") -> list[Example]:
        return list(self.stream(split, task))

    def stream(self, split: str, task: str = "") -> Iterator[Example]:
        """Read the rows of a split, one in memory at a time."""
        yield from map(Example.from_row, self._lines(str(Path("data", task, split)) + ".jsonl"))

    def write_findings(self, findings: Iterable[Finding]) -> None:
        write_lines(self.path / "data" / "findings.jsonl", (f.to_row() for f in findings))

    def findings(self) -> list[Finding]:
        return [Finding.from_row(row) for row in self._lines("data/findings.jsonl")]

    def log(self, phase: str, **values: Any) -> None:
        """Append one event; the line is flushed before this returns."""
        append_line(
            self.path / "events.jsonl", {"time": round(time.time(), 3), "phase": phase} | values
        )

    def events(self, phase: str | None = None) -> list[dict[str, Any]]:
        """Events in order, without an incomplete last line; empty before the first event."""
        if not (self.path / "events.jsonl").exists():
            return []
        rows = self._lines("events.jsonl")
        return [row for row in rows if phase is None or row["phase"] == phase]

    def drop_events_after(self, step: int) -> None:
        """Remove events of steps that a resumed run repeats, and an incomplete last line."""
        remaining = [row for row in self.events() if row.get("step", 0) <= step]
        if remaining or self.events():
            write_lines(self.path / "events.jsonl", remaining)

    def results_path(self, label: str, task: str) -> Path:
        return self.path / "results" / label / f"{task}.jsonl"

    def results(self, label: str, task: str) -> list[ItemResult]:
        return read_results(self.results_path(label, task))

    def write_ledger(self, rows: Iterable[LedgerRow]) -> None:
        self._write_json("ledger.json", [asdict(row) for row in rows])

    def ledger(self) -> list[LedgerRow]:
        return [LedgerRow(**row) for row in self._read_json("ledger.json")]

    def write_verdict(self, verdict: Verdict) -> None:
        self._write_json("verdict.json", asdict(verdict))

    def verdict(self) -> Verdict:
        return from_json(Verdict, self._read_json("verdict.json"))

    def write_frontier(self, frontier: Frontier) -> None:
        self._write_json("frontier.json", asdict(frontier))

    def frontier(self) -> Frontier:
        return from_json(Frontier, self._read_json("frontier.json"))

    def write_levels(self, choices: Iterable[LevelChoice]) -> None:
        self._write_json("levels.json", [asdict(choice) for choice in choices])

    def levels(self) -> list[LevelChoice]:
        """The chosen levels of each suite `levels`; empty before they are chosen."""
        if not (self.path / "levels.json").exists():
            return []
        return [from_json(LevelChoice, row) for row in self._read_json("levels.json")]

    def write_leakage(self, leakage: Leakage) -> None:
        self._write_json("leakage.json", asdict(leakage))

    def leakage(self) -> Leakage | None:
        """The overlaps between the data sets; None before the run is evaluated."""
        if not (self.path / "leakage.json").exists():
            return None
        return from_json(Leakage, self._read_json("leakage.json"))

    def _write_json(self, name: str, value: Any) -> None:
        write_atomic(self.path / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def _read_json(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            seen = f"{path} is missing, so {self.path} is not a "
            if name == "manifest.json":  # nothing can be continued without it
                remedy = "choose the folder of a run"
                raise RunError(
                    seen + "run", remedy, code="not_a_run", path=str(self.path)
                ) from error
            remedy = "continue it with `burnish run RECIPE --resume`"
            raise RunError(
                seen + "finished run", remedy, code="run_unfinished", path=str(path)
            ) from error
        except ValueError as error:  # not JSON, or cut within a character
            raise RunError(
                f"{path} is incomplete",
                "delete the folder and start the run again",
                code="half_written",
                path=str(path),
            ) from error

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        path = self.path / name
        if not path.exists():
            remedy = "start again with another --name, or delete the folder and start the run again"
            seen = f"{path} is missing, so {self.path} is incomplete"
            raise RunError(seen, remedy, code="run_file_missing", path=str(path))
        return read_lines(path)


def read_results(path: Path) -> list[ItemResult]:
    """Read results in order, without an incomplete last line; empty if there are none yet."""
    if not path.exists():
        return []
    return [ItemResult(**row) for row in read_lines(path)]


def append_results(path: Path, items: Iterable[ItemResult]) -> None:
    """Append finished items, so that an interrupted evaluation continues where it stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
