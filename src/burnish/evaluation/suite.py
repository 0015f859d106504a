"""General suites: sections of short items that measure a model's general ability.

The built-in suite `core` is in `suites/core`. A JSON Lines file of rows with question, choices and
answer, or with question and check, is a suite too. `split_suite` divides a suite into PROBE, which
may be looked at freely, and CERT, which certifies.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from statistics import fmean
from typing import Any

from burnish.conversation import Conversation, Message
from burnish.data.readers.read_rows import BadRow, read_rows
from burnish.errors import DataError, quantity
from burnish.evaluation.reply_checks import read_check
from burnish.evaluation.tasks import (
    BiasTask,
    CheckedItem,
    CheckedTask,
    ChoiceItem,
    ChooseTask,
    DivergenceTask,
    Opening,
    Task,
    TextLossTask,
    chat_context,
)
from burnish.models.interface import Sampling
from burnish.runs.directory import ItemResult

LEVELS = "levels"  # the suite of generated items; see `evaluation.levels`
PROBE = 0.3  # of every section, text and pair; CERT is the rest
# The parts' suffixes, between the name of the suite and that of the section.
HALVES = ("-probe.", "-cert.")
# Enough tokens to check a reply; generation takes most of a suite's time.
_REPLY = Sampling(max_new_tokens=20)
_HINT = "write question with choices (list) and answer (0-based index), or question with check"

Section = ChooseTask | CheckedTask


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite: `sections` are scored yes or no and form the mean; other parts are reported alone.

    `texts` are measured in nats per token, `bias` by the share of preferred stereotypes, and
    `openings` by the divergence from the base model. `parts` are PROBE and CERT where the suite is
    not split by the ids of its items. The suite `levels` is not `chosen`, and has no sections, as
    long as its levels are not chosen for a base model.
    """

    name: str
    sections: Sequence[Section]
    texts: Sequence[TextLossTask] = ()
    bias: Sequence[BiasTask] = ()
    openings: Sequence[DivergenceTask] = ()
    parts: "tuple[Suite, Suite] | None" = None
    chosen: bool = True

    @property
    def tasks(self) -> list[Task]:
        """All tasks of the suite, in the order of the ledger."""
        return [*self.sections, *self.texts, *self.bias, *self.openings]


def load_suite(name: str) -> Suite:
    """Load a built-in suite by name, or a JSON Lines file by path.

    Raises:
        DataError: the suite does not exist, or a row of the file is invalid.
    """
    if name.endswith(".jsonl"):
        return _own_suite(Path(name))
    if name == LEVELS:
        return Suite(LEVELS, [], chosen=False)
    if name not in built_in_suites():
        known = ", ".join(built_in_suites())
        raise DataError(
            f"unknown general suite {name!r}",
            f"use {known} or a .jsonl file",
            code="unknown_suite",
            suite=name,
            expected=built_in_suites(),
        )
    parts: dict[str, Any] = {"sections": [], "texts": [], "bias": [], "openings": []}
    with as_file(files("burnish.evaluation") / "suites" / name) as folder:
        for section, kind in json.loads((folder / "suite.json").read_text()).items():
            field, build = _KINDS[kind["kind"]]
            rows = _rows(folder / f"{section}.jsonl")
            parts[field].append(build(f"{name}.{section}", rows))
    return Suite(name, **parts)


def split_suite(suite: Suite) -> tuple[Suite, Suite]:
    """Split a suite into PROBE, used freely to choose, and CERT, reserved for certification.

    Every part of the suite is split in the same way: the items whose ids have the lowest hashes are
    PROBE. So every run uses the same items, whatever the order of the rows.

    Raises:
        DataError: no section has enough items for both sides.
    """
    if suite.parts is not None:
        return suite.parts
    probe, cert = (_side(suite, side) for side in ("probe", "cert"))
    if not probe.sections or not cert.sections:
        raise DataError(
            f"no section of the suite {suite.name} has 2 or more items, so it cannot be split into "
            "PROBE and CERT",
            "add more items",
            code="too_few_items",
            suite=suite.name,
        )
    return probe, cert


def chance(section: Section) -> float:
    """The expected score of random guessing; no reply passes a check by chance."""
    if isinstance(section, CheckedTask):
        return 0.0
    return fmean(1 / len(item.choices) for item in section.items)


def near_chance(section: Section, base: Sequence[ItemResult]) -> str | None:
    """Why a section cannot show a loss, as a clause; None if the base is above chance.

    Above means by more than two standard errors of the base's score, a mean of yes/no items.
    """
    score, guess = fmean(item.score for item in base), chance(section)
    if score > guess + 2 * math.sqrt(score * (1 - score) / len(base)):
        return None
    seen = f"the base model scores {100 * score:.1f}% on {quantity(len(base), 'item')}"
    if isinstance(section, CheckedTask):
        return f"{seen}, not clearly above 0"
    return f"{seen}, not two standard errors above chance ({100 * guess:.1f}%)"


def built_in_suites() -> list[str]:
    """Names of the built-in suites; the sections of `levels` are chosen for each base model."""
    folder = files("burnish.evaluation") / "suites"
    folders = (e.name for e in folder.iterdir() if e.is_dir() and e.name[0] != "_")
    return sorted([*folders, LEVELS])


def _own_suite(path: Path) -> Suite:
    """The suite of a file: one section, or one with choices and one with replies."""
    if not path.is_file():
        raise DataError(
            f"the suite file {path} does not exist",
            "correct the path, or set evaluate.general to core",
            code="file_missing",
            path=str(path),
        )
    rows = _rows(path)
    if not rows:
        raise DataError(f"the suite file {path} is empty", _HINT, code="no_rows", path=str(path))
    checked = {where: row for where, row in rows.items() if "check" in row}
    chosen = {where: row for where, row in rows.items() if where not in checked}
    if not checked:
        return Suite(path.stem, [_without_repeats(_continuations(path.stem, chosen))])
    if not chosen:
        return Suite(path.stem, [_without_repeats(_replies(path.stem, checked))])
    choices = _continuations(f"{path.stem}.choices", chosen)
    return Suite(
        path.stem,
        [_without_repeats(choices), _without_repeats(_replies(f"{path.stem}.replies", checked))],
    )


def _without_repeats(section: Any) -> Any:
    """Remove items that repeat an earlier one, whatever their ids.

    They add no information, and could end up in both PROBE and CERT.
    """
    unique: dict[str, Any] = {}
    for item in section.items:
        unique.setdefault(json.dumps(asdict(item) | {"id": None}, sort_keys=True), item)
    return replace(section, items=list(unique.values()))


Rows = Mapping[str, Mapping[str, Any]]


def _rows(path: Path) -> Rows:
    """Rows by their location, `file:line`; a row without an id gets a hash of its content."""
    rows: dict[str, dict[str, Any]] = {}
    seen: dict[str, str] = {}
    for row in read_rows(path):
        if isinstance(row, BadRow):
            raise _invalid(row.source, row.reason, row.remedy, code=row.code, **row.fields)
        values = dict(row.values)
        name = str(values.get("id", _hash(json.dumps(values, sort_keys=True))[:12]))
        if name in seen and "id" in values:
            same, own = f"has the same id as {seen[name]}: {name!r}", "give each row its own id"
            raise _invalid(row.source, same, own, code="duplicate_id", id=name, first=seen[name])
        seen[name] = row.source
        rows[row.source] = values | {"id": name}
    return rows


def _choices(rows: Rows, context: Callable[[str], Conversation | str]) -> list[ChoiceItem]:
    items = []
    for where, row in rows.items():
        if missing := [key for key in ("question", "choices", "answer") if key not in row]:
            raise _invalid(where, f"has no {missing[0]}", code="missing_key", key=missing[0])
        question, choices, answer = row["question"], row["choices"], row["answer"]
        if not isinstance(question, str) or not _are_texts(choices):
            wrong = "choices" if isinstance(question, str) else "question"
            seen = (
                f"needs a question (text) and two or more choices (texts), but {wrong} is "
                f"{row[wrong]!r:.80}"
            )
            raise _invalid(where, seen, code="invalid_value", key=wrong, value=row[wrong])
        if twice := [choice for choice in choices if choices.count(choice) > 1]:
            seen, remedy = f"has the choice {twice[0]!r} twice", "make all choices different"
            raise _invalid(where, seen, remedy, code="duplicate_choice", value=twice[0])
        count = len(choices)
        if type(answer) is not int or answer not in range(count):
            seen = (
                f"has the answer {answer!r}, which is not the index of a choice (0 to {count - 1})"
            )
            raise _invalid(where, seen, code="answer_not_a_choice", value=answer, count=count)
        items.append(ChoiceItem(row["id"], context(question), tuple(choices), answer))
    return items


def _invalid(where: str, seen: str, remedy: str = _HINT, *, code: str, **fields: Any) -> DataError:
    """The error of a row of a suite."""
    return DataError(f"{where} {seen}", remedy, code=code, source=where, **fields)


def _are_texts(choices: Any) -> bool:
    return (
        isinstance(choices, list)
        and len(choices) > 1
        and all(isinstance(choice, str) and choice for choice in choices)
    )


def _prompt(where: str, row: Mapping[str, Any]) -> Conversation:
    if not isinstance(row.get("question"), str):
        raise _invalid(where, "has no question", code="missing_key", key="question")
    system = (Message("system", row["system"]),) if row.get("system") else ()
    return (*system, *chat_context(row["question"]))


def _continuations(task: str, rows: Rows) -> ChooseTask:
    return ChooseTask(task, _choices(rows, str))


def _answers(task: str, rows: Rows) -> ChooseTask:
    return ChooseTask(task, _choices(rows, chat_context))


def _replies(task: str, rows: Rows) -> CheckedTask:
    items = [
        CheckedItem(row["id"], _prompt(where, row), read_check(row["check"], where))
        for where, row in rows.items()
    ]
    return CheckedTask(task, items, _REPLY)


def _texts(task: str, rows: Rows) -> TextLossTask:
    return TextLossTask(task, [(row["id"], row["text"]) for row in rows.values()])


def _pairs(task: str, rows: Rows) -> BiasTask:
    return BiasTask(task, _choices(rows, str))


def _openings(task: str, rows: Rows) -> DivergenceTask:
    items = [Opening(row["id"], _prompt(at, row), row["answer"]) for at, row in rows.items()]
    return DivergenceTask(task, items)


# The kinds of sections in `suite.json`: the part of the suite, and the function that builds it.
_KINDS: dict[str, tuple[str, Callable[[str, Rows], Any]]] = {
    "continuation": ("sections", _continuations),
    "chat": ("sections", _answers),
    "generated": ("sections", _replies),
    "text": ("texts", _texts),
    "bias": ("bias", _pairs),
    "openings": ("openings", _openings),
}


def _side(suite: Suite, side: str) -> Suite:
    name = f"{suite.name}-{side}"

    def parts(tasks: Sequence[Any]) -> list[Any]:
        cut = (_part(task, f"{name}.{task.name.rpartition('.')[2]}", side) for task in tasks)
        return [task for task in cut if len(task)]

    return Suite(
        name,
        sections=parts(suite.sections),
        texts=parts(suite.texts),
        bias=parts(suite.bias),
        openings=parts(suite.openings),
    )


def _part(task: Any, name: str, side: str) -> Any:
    """One side of a task, in the order of the suite, so that base and tuned results align."""
    if isinstance(task, TextLossTask):
        ids = _drawn([text for text, _ in task.items], side)
        return replace(task, name=name, items=[row for row in task.items if row[0] in ids])
    ids = _drawn([item.id for item in task.items], side)
    return replace(task, name=name, items=[item for item in task.items if item.id in ids])


def _drawn(ids: Sequence[str], side: str) -> set[str]:
    ordered = sorted(ids, key=_hash)
    count = min(max(round(PROBE * len(ids)), 1), len(ids) - 1)
    return set(ordered[:count] if side == "probe" else ordered[count:])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
