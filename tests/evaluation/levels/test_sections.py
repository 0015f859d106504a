"""Every registered section, by what its items are made of; and the hash of the edition."""

import re
from statistics import fmean

import pytest

from burnish.data.render import render_prompt
from burnish.errors import ModelError
from burnish.evaluation.levels.draw import content_hash
from burnish.evaluation.levels.edition import EDITION, edition
from burnish.evaluation.levels.registry import SECTIONS
from burnish.evaluation.levels.section import Item, LevelSection
from burnish.evaluation.reply_checks import passes, read_check
from burnish.evaluation.tasks import CheckedItem, ChoiceItem
from burnish.models.interface import Choice
from burnish.models.load import load_tokenizer
from burnish.models.registry import resolve
from burnish.models.tokenize import tokenize_choice

DRAWN = 40
LEVELS = [(section, number) for section in SECTIONS for number in range(1, len(section.levels) + 1)]


def test_the_edition_is_the_released_one() -> None:
    assert edition(SECTIONS) == EDITION


def test_sections_have_different_plain_names_and_four_levels() -> None:
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", name) for name in names)
    for section in SECTIONS:
        assert len(section.levels) >= 4, section.name
        described = [level.description for level in section.levels]
        assert len(set(described)) == len(described), section.name


@pytest.mark.parametrize(
    ("section", "number"), LEVELS, ids=lambda value: getattr(value, "name", value)
)
def test_items_of_a_level_are_sound(section: LevelSection, number: int) -> None:
    count = DRAWN if section.levels[number - 1].tokens <= 3000 else 4
    items = [section.item(number, seed) for seed in range(count)]
    assert items == [section.item(number, seed) for seed in range(count)]
    assert len({content_hash(item) for item in items}) >= 0.6 * count
    assert {type(item) for item in items} == {_KINDS[section.kind]}
    for item in items:
        if isinstance(item, ChoiceItem):
            assert len(set(item.choices)) == len(item.choices) > 1
            assert item.answer in range(len(item.choices))
        else:
            check = read_check(item.check, item.id)
            assert item.prompt[-1].role == "user"
            if "python" not in check or item is items[0]:  # a process for each item takes long
                assert not passes("track_order", check), item.id
    answer = [item.answer for item in items if isinstance(item, ChoiceItem)]
    if len(answer) == DRAWN:  # the right choice is not always in the same place
        assert len(set(answer)) > 1
    _check_tokens(section, number, items)


def _check_tokens(section: LevelSection, number: int, items: list[Item]) -> None:
    """Checks the bound of the tokens with the built-in model's tokenizer."""
    try:
        tokenizer = load_tokenizer(resolve("smollm2-135m"))
    except ModelError:
        pytest.skip("the built-in model is not on this machine")
    level = section.levels[number - 1]
    sizes = []
    for item in items:
        if isinstance(item, CheckedItem):
            sizes.append(len(render_prompt(item.prompt, tokenizer)) + level.answer_tokens)
        else:
            context, choices = tokenize_choice(Choice(item.context, item.choices), tokenizer)
            sizes.append(len(context) + max(map(len, choices)))
    assert max(sizes) <= level.tokens, item.id
    assert level.tokens <= 3 * fmean(sizes) + 100, "the bound is far above the items"


_KINDS = {"scored": ChoiceItem, "generated": CheckedItem}
