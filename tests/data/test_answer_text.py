from itertools import pairwise
from typing import Any

import pytest

from burnish.conversation import Example, Message
from burnish.data.answer_text import ReplyReader, answer_decoder, plain_answer, read_reply
from burnish.data.chat_templates import set_thinking
from burnish.data.exported_template import trained_template
from burnish.data.render import render_branches, render_prompt
from burnish.data.template_text import form_for
from tests.data.family_templates import family_tokenizer, template_names

ASK = (Message("user", "where is it"),)


def learnt(answer: Message, tokenizer: Any) -> tuple[list[int], str]:
    """The prompt's tokens, and the text of the tokens that are learnt."""
    (row,) = render_branches(Example("x", (*ASK, answer)), tokenizer)
    start = row.weights.index(1.0)
    tokens = [t for t, weight in zip(row.tokens, row.weights, strict=True) if weight]
    return list(row.tokens[:start]), answer_decoder(tokenizer)(tokens)


@pytest.mark.parametrize("name", template_names())
def test_thought_and_answer_are_read_back(tiny_tokenizer: Any, name: str) -> None:
    tokenizer = family_tokenizer(name, tiny_tokenizer)
    form = form_for(tokenizer)
    for thought in ("hm\nso", "") if form.reasoning else ("",):
        prompt, text = learnt(Message("assistant", "in < it", reasoning=thought), tokenizer)
        reader = ReplyReader(tokenizer, None, prompt)
        # The template of GLM and others begins an answer with white space.
        parts = reader.parts(text)
        assert (parts.thought, parts.content.strip()) == (thought, "in < it")
        assert plain_answer(text, None, tokenizer, prompt).strip() == "in < it"
        grown = [reader.parts(text[:size], ended=False) for size in range(len(text) + 1)]
        for before, after in pairwise(grown):
            assert after.thought.startswith(before.thought)
            assert after.content.startswith(before.content)


def test_a_thought_that_was_cut_is_no_answer(tiny_tokenizer: Any) -> None:
    form = form_for(family_tokenizer("qwen3", tiny_tokenizer))
    cut = read_reply("<think>\nhm", form)
    assert (cut.thought, cut.content, cut.is_open) == ("hm", "", True)
    assert read_reply("hm</thi", form, opened=True, ended=False).thought == "hm"
    assert read_reply("<", form, ended=False).content == ""
    assert read_reply("<", form).content == "<"


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "deepseekv3", "glm4moe", "gemma4_v5"])
@pytest.mark.parametrize("thinking", [True, False])
def test_an_exported_template_asks_as_in_training(
    tiny_tokenizer: Any, name: str, thinking: bool
) -> None:
    tokenizer = family_tokenizer(name, tiny_tokenizer)
    before = render_prompt(ASK, tokenizer)
    set_thinking(tokenizer, thinking)
    wanted = render_prompt(ASK, tokenizer)
    assert thinking or wanted != before or name == "gemma4_v5"
    other = family_tokenizer(name, tiny_tokenizer, str(trained_template(tokenizer)))
    assert render_prompt(ASK, other) == wanted
    turns = [{"role": "user", "content": "where is it"}]
    plain = other.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert list(plain) == wanted
