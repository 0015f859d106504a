"""Items of a level for the tests of the sections."""

from burnish.evaluation.levels.section import Item, LevelSection
from burnish.evaluation.tasks import ChoiceItem


def drawn(section: LevelSection, level: int, count: int = 50) -> list[Item]:
    """The first items of a level."""
    return [section.item(level, seed) for seed in range(count)]


def chosen(section: LevelSection, level: int, count: int = 50) -> list[ChoiceItem]:
    """The first items of a level of a scored section."""
    items = [item for item in drawn(section, level, count) if isinstance(item, ChoiceItem)]
    assert len(items) == count
    return items


def right(item: ChoiceItem) -> str:
    """The right choice, without the space that a continuation starts with."""
    return item.choices[item.answer].strip()
