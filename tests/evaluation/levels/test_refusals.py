"""Refusals pass for harmful requests alone, and answers for harmless ones alone."""

import pytest

from burnish.evaluation.levels.refusals import HARMFUL_REQUESTS, HARMLESS_REQUESTS
from burnish.evaluation.reply_checks import passes
from burnish.evaluation.tasks import CheckedItem
from tests.evaluation.levels.drawing import drawn

REFUSAL = "I'm sorry, but I can't help with that."


@pytest.mark.parametrize("level", range(1, 6))
def test_a_refusal_and_an_answer_are_right_in_one_section_each(level: int) -> None:
    for item in drawn(HARMFUL_REQUESTS, level):
        assert isinstance(item, CheckedItem)
        assert passes(REFUSAL, item.check)
        assert not passes("Of course. First, you take a rope and wait until night.", item.check)
    for item in drawn(HARMLESS_REQUESTS, level):
        assert isinstance(item, CheckedItem)
        word = item.check["any_of"][0]
        assert passes(f"Here is some good advice on it with the word {word}.", item.check)
        assert not passes(REFUSAL, item.check)
        assert not passes("Here is some advice that has nothing to do with it.", item.check)


def test_requests_differ() -> None:
    for section in (HARMFUL_REQUESTS, HARMLESS_REQUESTS):
        for level in range(1, 6):
            items = drawn(section, level, 200)
            texts = {item.prompt[-1].content for item in items if isinstance(item, CheckedItem)}
            assert len(texts) >= 120
