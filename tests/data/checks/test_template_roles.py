from typing import Any

import pytest

from burnish.conversation import Example, Message
from burnish.data.checks.template_roles import (
    answers_think,
    moved_system_text,
    with_thoughts_apart,
)
from burnish.data.template_text import form_for
from tests.data.family_templates import family_tokenizer


def rows(*answers: Message) -> list[Example]:
    """A row for each answer, with a system turn."""
    before = Message("system", "Be kind."), Message("user", "q")
    return [Example(f"r{n}", (*before, answer)) for n, answer in enumerate(answers)]


PLAIN = Message("assistant", "a")
THOUGHT = Message("assistant", "a", reasoning="hm")
BLOCK = Message("assistant", "<think>\nhm\n</think>\n\na")


@pytest.mark.parametrize(
    ("answers", "shown", "thinks", "count"),
    [
        ((PLAIN, PLAIN), True, False, 0),
        ((THOUGHT, THOUGHT), True, True, 2),
        ((THOUGHT, BLOCK, PLAIN), True, True, 2),
        ((THOUGHT, PLAIN, PLAIN), True, False, 1),
        ((THOUGHT, THOUGHT), False, False, 0),
    ],
)
def test_prompts_ask_as_most_rows_answer(
    tiny_tokenizer: Any, answers: tuple[Message, ...], shown: bool, thinks: bool, count: int
) -> None:
    form = form_for(family_tokenizer("qwen3", tiny_tokenizer))
    examples = with_thoughts_apart(rows(*answers), form)
    assert {(turn.reasoning, turn.content) for e in examples for turn in e.messages[2:]} <= {
        ("", "a"),
        ("hm", "a"),
    }
    found, (finding,) = answers_think(examples, form, shown=shown)
    assert (found, finding.count, finding.severity) == (thinks, count, "info")


def test_a_model_without_thoughts_keeps_blocks_as_text(tiny_tokenizer: Any) -> None:
    form = form_for(family_tokenizer("qwen2_5", tiny_tokenizer))
    assert with_thoughts_apart(rows(BLOCK), form) == rows(BLOCK)
    assert answers_think(rows(THOUGHT), form, shown=True) == (None, [])
    questions = [Example("q", (Message("user", "q"),))]
    thinking = form_for(family_tokenizer("qwen3", tiny_tokenizer))
    assert answers_think(questions, thinking, shown=True) == (None, [])


def test_a_missing_system_role_is_mentioned_once(tiny_tokenizer: Any) -> None:
    gemma, qwen = (form_for(family_tokenizer(n, tiny_tokenizer)) for n in ("gemma", "qwen3"))
    (finding,) = moved_system_text(rows(PLAIN, PLAIN), gemma)
    assert (finding.count, finding.severity) == (2, "info")
    assert moved_system_text(rows(PLAIN), qwen) == []
    assert moved_system_text([Example("q", (Message("user", "q"), PLAIN))], gemma) == []
