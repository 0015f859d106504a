"""General suites: sections of short items that show what else the model can still do.

The built-in `core` lies in `suites/core`; a JSON Lines file of question, choices and answer is a
suite of one section.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from burnish.errors import DataError
from burnish.evaluation.tasks import ChoiceItem, ChooseTask, TextLossTask, chat_context


@dataclass(frozen=True, slots=True)
class Suite:
    """`sections` are scored yes or no; `texts` are measured in nats a token."""

    name: str
    sections: Sequence[ChooseTask]
    texts: Sequence[TextLossTask]


def load_suite(name: str) -> Suite:
    """A built-in suite by name, or a JSON Lines file by path.

    Raises:
        DataError: there is no such suite, or a row of the file does not fit.
    """
    if name.endswith(".jsonl"):
        path = Path(name)
        if not path.is_file():
            raise DataError(
                f"there is no suite file {path}", "set evaluate.general to core or a file"
            )
        return Suite(path.stem, [_section(path.stem, "continuation", False, path.read_text())], [])
    if name not in built_in_suites():
        known = ", ".join(built_in_suites())
        raise DataError(f"there is no general suite {name!r}", f"choose {known} or a .jsonl file")
    folder = files("burnish.evaluation") / "suites" / name
    sections: list[ChooseTask] = []
    texts: list[TextLossTask] = []
    for section, kind in json.loads((folder / "suite.json").read_text()).items():
        rows = (folder / f"{section}.jsonl").read_text(encoding="utf-8")
        task = f"{name}.{section}"
        if kind["kind"] == "text":
            texts.append(TextLossTask(task, [(r["id"], r["text"]) for r in _rows(rows)]))
        else:
            sections.append(_section(task, kind["kind"], kind["by_length"], rows))
    return Suite(name, sections, texts)


def probe(suite: Suite, share: float) -> Suite:
    """A fixed share of each section, rounded up: the items whose ids have the lowest hashes.

    It costs no generation, and the same items are drawn in every run. Texts are left out: they are
    no part of the suite mean.
    """
    name = f"{suite.name}-probe"
    sections = [
        replace(
            section,
            name=f"{name}.{section.name.rpartition('.')[2]}",
            items=_lowest_hashes(section.items, math.ceil(share * len(section.items))),
        )
        for section in suite.sections
    ]
    return Suite(name, sections, [])


def _lowest_hashes(items: Sequence[ChoiceItem], count: int) -> list[ChoiceItem]:
    """In the order of the suite, which the measurement of base and tuned share."""
    hashes = {item.id: hashlib.sha256(item.id.encode()).hexdigest() for item in items}
    chosen = set(sorted(hashes, key=hashes.__getitem__)[:count])
    return [item for item in items if item.id in chosen]


def built_in_suites() -> list[str]:
    """Names of the suites that come with Burnish."""
    folder = files("burnish.evaluation") / "suites"
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "_"
    )


def _section(task: str, kind: str, by_length: bool, lines: str) -> ChooseTask:
    items = []
    for number, row in enumerate(_rows(lines), 1):
        try:
            question, choices, answer = row["question"], tuple(row["choices"]), int(row["answer"])
            choices[answer]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"row {number} of the suite {task} has no question, choices and answer",
                "write question (text), choices (list) and answer (0-based index)",
            ) from error
        context = chat_context(question) if kind == "chat" else question
        items.append(ChoiceItem(str(row.get("id", number)), context, choices, answer))
    return ChooseTask(task, items, by_length)


def _rows(lines: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines() if line.strip()]
