"""Draws the items of a level: PROBE and CERT from seeds of their own, and never an item twice.

A hash of its content puts an item into PROBE or CERT. So the two share no item even where a level
has few different ones.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from burnish.evaluation.levels.section import Item, LevelSection
from burnish.evaluation.suite import PROBE, Section
from burnish.evaluation.tasks import CheckedItem, CheckedTask, ChoiceItem, ChooseTask
from burnish.models.interface import Sampling

Part = Literal["probe", "cert"]
# The first seed of each part, and the distance between the seeds of two suites.
_FIRST: dict[Part, int] = {"probe": 0, "cert": 5_000_000}
_APART = 10_000_000
# A level is exhausted when so many draws in a row bring no new item.
_PATIENCE = 300


def draw_items(
    section: LevelSection, level: int, part: Part, count: int, seed: int = 0
) -> list[Item]:
    """Return `count` different items of one part of a level, or all that it has if it has fewer."""
    items: dict[str, Item] = {}
    number, last = _FIRST[part] + seed * _APART, 0
    for drawn in range(count * 1000):
        if len(items) == count or drawn - last > _PATIENCE:
            break
        item = section.item(level, number + drawn)
        content = content_hash(item)
        if content not in items and _part_of(content) == part:
            items[content], last = item, drawn
    return list(items.values())


def level_task(name: str, items: Sequence[Item], answer_tokens: int) -> Section:
    """The task of items of one kind; replies are cut off after `answer_tokens`."""
    if isinstance(items[0], ChoiceItem):
        return ChooseTask(name, [item for item in items if isinstance(item, ChoiceItem)])
    checked = [item for item in items if isinstance(item, CheckedItem)]
    return CheckedTask(name, checked, Sampling(max_new_tokens=answer_tokens))


def content_hash(item: Item) -> str:
    """A hash of what an item asks; the order of its choices does not count."""
    content: dict[str, Any] = asdict(item) | {"id": None}
    if isinstance(item, ChoiceItem):
        content |= {"choices": sorted(item.choices), "answer": item.choices[item.answer]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _part_of(content: str) -> Part:
    return "probe" if int(content[:8], 16) < PROBE * 16**8 else "cert"
