"""Reads what a model wrote: its tokens to text, and the text to thought, answer and calls."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from burnish.data.call_formats import HERMES
from burnish.data.chat_templates import known_stop_texts, template_for
from burnish.data.template_form import TemplateForm, opened_thought, template_form
from burnish.data.template_text import form_for, special_texts
from burnish.errors import DataError

# Tokens at the end of a prompt that the beginning of a thought has at most.
_MARK = 12


@dataclass(frozen=True, slots=True)
class Reply:
    """The parts of an answer.

    Attributes:
        thought: what the model thought before it answered.
        content: the answer, with its calls in their family's form.
        is_open: whether the thought, or what stands before the answer, has not ended yet.
    """

    thought: str
    content: str
    is_open: bool = False


class AnswerDecoder:
    """Decodes answers to text, without special tokens but those that mark thoughts and calls."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.kept = kept_marks(tokenizer)
        self._dropped = frozenset(tokenizer.all_special_ids) | {
            token for token, one in tokenizer.added_tokens_decoder.items() if one.special
        }

    def __call__(self, tokens: Sequence[int]) -> str:
        """The text of the tokens."""
        if not self.kept:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        shown = [t for t in tokens if t in self.kept or t not in self._dropped]
        return str(self.tokenizer.decode(shown, skip_special_tokens=False))


def answer_decoder(tokenizer: Any) -> AnswerDecoder:
    """The decoder of a tokenizer's answers; one is made per tokenizer and chat template."""
    template = tokenizer.chat_template
    key = template if isinstance(template, str | None) else repr(template)
    decoder: AnswerDecoder = _decoder(tokenizer, key, known_stop_texts(tokenizer))
    return decoder


@functools.lru_cache(maxsize=16)
def _decoder(tokenizer: Any, _template: str | None, _stops: frozenset[str]) -> AnswerDecoder:
    return AnswerDecoder(tokenizer)


def kept_marks(tokenizer: Any) -> frozenset[int]:
    """Special tokens that the template writes within answers: the marks of thoughts and calls.

    Empty for most models: they have no such marks, or their marks are ordinary tokens.
    """
    try:
        template = template_for(tokenizer, tools=True)
    except DataError:  # it cannot chat, but it can continue texts
        return frozenset()
    form = template_form(tokenizer, template)
    written = [*(form.thought or ()), form.start]
    marks: tuple[str, ...] = ()
    if form.fields is not None:
        at = [(f.start, f.end) for f in form.calls.read(form.call, ())]
        written += [form.call[start:end] for start, end in at]
        marks = form.calls.marks
    special = special_texts(tokenizer) - known_stop_texts(tokenizer)
    texts = [one for one in special if one in marks or any(one in text for text in written)]
    return frozenset(tokenizer.convert_tokens_to_ids(one) for one in texts)


def read_reply(text: str, form: TemplateForm, *, opened: bool = False, ended: bool = True) -> Reply:
    """The parts of an answer.

    Args:
        text: what the model wrote.
        form: of the chat template.
        opened: whether the prompt began a thought.
        ended: False for an answer that still grows; what may become a mark is then held back.
    """
    begun = text.lstrip()
    if form.thought is not None:
        before, between = (mark.strip() for mark in form.thought)
        if opened or (before and begun.startswith(before)):
            return _thought(text, before, between, ended=ended)
        if not ended and before and before.startswith(begun):
            return Reply("", "", is_open=True)
    start = form.start.strip()
    if start and begun.startswith(start):
        return Reply("", begun[len(start) :].lstrip())
    if not ended and start and start.startswith(begun):
        return Reply("", "", is_open=True)
    return Reply("", text)


def _thought(text: str, before: str, between: str, *, ended: bool) -> Reply:
    thought, end, content = text.partition(between)
    if not end and not ended:
        sizes = range(min(len(between) - 1, len(thought)), 0, -1)
        held = next((n for n in sizes if between.startswith(thought[-n:])), 0)
        thought = thought[: len(thought) - held]
    thought = thought.strip().removeprefix(before).strip()
    return Reply(thought, content.lstrip(), not end)


def opens_thought(prompt: Sequence[int], tokenizer: Any) -> bool:
    """Whether the tokens of a prompt end with the beginning of a thought."""
    return opened_thought(tokenizer.decode(prompt[-_MARK:])) is not None


class ReplyReader:
    """Reads the answers to one prompt.

    Attributes:
        calls: the form of the family's calls.

    Args:
        tokenizer: of the model.
        tools: the functions that the prompt offers.
        prompt: the tokens of the prompt.
    """

    def __init__(self, tokenizer: Any, tools: Any, prompt: Sequence[int]) -> None:
        self._form = form_for(tokenizer, tools)
        self.calls = self._form.calls
        self._opened = self._form.thought is not None and opens_thought(prompt, tokenizer)

    def parts(self, text: str, *, ended: bool = True) -> Reply:
        """The parts of an answer, or of one that still grows."""
        if self._form.thought is None and not self._form.start:
            return Reply("", text)
        return read_reply(text, self._form, opened=self._opened, ended=ended)


def plain_answer(text: str, tools: Any, tokenizer: Any, prompt: Sequence[int]) -> str:
    """The answer as rows have it: without its thought, and with calls in the form of Hermes.

    Args:
        text: what the model wrote.
        tools: the functions that the prompt offers; None if it offers none.
        tokenizer: of the model.
        prompt: the tokens of the prompt.
    """
    form = form_for(tokenizer, tools)
    if form.thought is None and not form.start and form.calls is HERMES:
        return text
    reply = read_reply(text, form, opened=opens_thought(prompt, tokenizer))
    if form.calls is HERMES or not tools:
        return reply.content
    content, calls = form.calls.parse(reply.content, tools)
    return "\n".join(part for part in (content, *(call.text for call in calls)) if part)
