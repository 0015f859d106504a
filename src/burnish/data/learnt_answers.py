"""Finds what is learnt of a conversation: each answer behind the prompt that asks for it.

The prompt of an answer is what the chat template writes for the turns before it. The answer is its
own text as the template writes it, with the stop token at which the model ends. Where the template
writes earlier turns alike however many follow, all answers of a conversation are parts of one text.
Otherwise (templates that drop earlier thoughts, for one) each answer has a text of its own, and
these texts share their beginning.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from burnish.conversation import Conversation, Example, Message
from burnish.data.call_formats import HERMES
from burnish.data.chat_templates import known_stop_texts, stop_texts
from burnish.data.template_form import TemplateForm, common_length
from burnish.data.template_text import (
    conversation_text,
    form_for,
    special_texts,
    thought_end,
    with_thought_apart,
)
from burnish.data.tool_calls import offered_tools
from burnish.errors import DataError

_SPACE = re.compile(r"\s*")
# Characters at the end of an answer by which it is found again when a turn follows.
_TAIL = 12


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) that are trained on with `weight`; they end with a stop token."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class LearntText:
    """A text with the spans that are learnt; `prompt` characters are tokenized apart if above 0."""

    text: str
    spans: tuple[Span, ...]
    prompt: int = 0


@dataclass(frozen=True, slots=True)
class StopMarks:
    """The texts that end answers. Build it once: it iterates over all added tokens.

    `known` are those at which the model stops, `special` all special tokens of the tokenizer.
    """

    known: frozenset[str]
    special: frozenset[str]
    own: str

    @classmethod
    def of(cls, tokenizer: Any) -> "StopMarks":
        """The stop texts of a tokenizer."""
        known = known_stop_texts(tokenizer)
        declared = sorted(stop_texts(tokenizer))
        own = [*declared, *filter(None, [tokenizer.eos_token]), *sorted(known)]
        return cls(known, special_texts(tokenizer) | known, own[0] if own else "")

    def stop_at(self, text: str, at: int) -> int | None:
        """The end of the stop token that starts at `at`, after white space; None if none does.

        Marks that close an answer before the model stops belong to it.
        """
        first = end = self._mark_at(text, at, self.special)
        while end is not None and text[:end].endswith(tuple(self.known)) is False:
            if (end := self._mark_at(text, end, self.special)) is None:
                return first
        return end

    def last_stop(self, text: str) -> int | None:
        """The end of a text that ends with a stop token; None if it does not."""
        end = text.rstrip()
        return len(end) if self.known and end.endswith(tuple(self.known)) else None

    def ends_special(self, text: str) -> int | None:
        """The end of a text that ends with any special token; None if it does not."""
        end = text.rstrip()
        return len(end) if self.special and end.endswith(tuple(self.special)) else None

    def known_at(self, text: str) -> str:
        """The known stop with which a text begins after white space; empty if with none."""
        begun = text.lstrip()
        found = [stop for stop in self.known if stop and begun.startswith(stop)]
        return max(found, key=len, default="")

    @staticmethod
    def _mark_at(text: str, at: int, marks: frozenset[str]) -> int | None:
        space = _SPACE.match(text, at)
        start = space.end() if space else at
        ends = [start + len(mark) for mark in marks if mark and text.startswith(mark, start)]
        return max(ends, default=None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A learnt turn: the text before it, and its own with the stop token."""

    prompt: str
    text: str
    weight: float
    thinking: bool | None

    @property
    def whole(self) -> str:
        return self.prompt + self.text


def learnt_texts(example: Example, tokenizer: Any, marks: StopMarks) -> list[LearntText]:
    """The texts of a conversation's learnt answers: one, or one per answer.

    Raises:
        DataError: the template refuses the turns, or changes the text of an answer.
    """
    turns = example.messages
    where = example.source or example.id
    answers = list(_answers(turns, tokenizer, marks, where))
    kinds = {answer.thinking for answer in answers}
    if len(kinds) < 2:
        thinking = next(iter(kinds), None)
        text = conversation_text(turns, tokenizer, thinking=thinking, where=where)
        if answers and len(answers[-1].whole) > len(text) and answers[-1].whole.startswith(text):
            text = answers[-1].whole
        if all(text.startswith(answer.whole) for answer in answers):
            return [LearntText(text, tuple(_span(answer) for answer in answers))]
    return _branches(answers)


def _branches(answers: Sequence[_Answer]) -> list[LearntText]:
    """A text per answer; one that another answer's prompt repeats is learnt there."""
    texts: list[tuple[str, list[_Answer]]] = []
    for answer in reversed(answers):
        own = next((own for text, own in texts if text.startswith(answer.whole)), None)
        if own is None:
            texts.append((answer.whole, [answer]))
        else:
            own.insert(0, answer)
    return [
        LearntText(text, tuple(map(_span, own)), len(own[0].prompt) if len(own) == 1 else 0)
        for text, own in reversed(texts)
    ]


def _span(answer: _Answer) -> Span:
    return Span(len(answer.prompt), len(answer.whole), answer.weight)


def thinking_of_turn(turn: Message, form: TemplateForm) -> bool | None:
    """Whether an answer begins with a thought; None where the template knows no thoughts."""
    if not form.thinks:
        return None
    return bool(form.reasoning and with_thought_apart(turn, form).reasoning)


def _answers(
    turns: Conversation, tokenizer: Any, marks: StopMarks, where: str
) -> Iterator[_Answer]:
    form = form_for(tokenizer, offered_tools(turns))
    for index, turn in enumerate(turns):
        if turn.role != "assistant" or turn.weight <= 0:
            continue
        if index == 0:
            raise DataError(
                f"{where} starts with an assistant turn",
                "add a user turn before it",
                code="starts_with_assistant",
                source=where,
            )
        own = with_thought_apart(turn, form)
        thinking = thinking_of_turn(turn, form)
        # Tools may be offered in a later turn than the first, but they are known from the start.
        before = _with_tools(turns[:index], turns)
        prompt = conversation_text(before, tokenizer, asks=True, thinking=thinking, where=where)
        known = (*before, own)
        whole = conversation_text(known, tokenizer, thinking=thinking, where=where)
        text = _own_text(prompt, whole, own, form)
        end = None if text is None else _end(text, own, form, marks)
        if text is not None and end is None:
            text = text.rstrip() if own.content.rstrip() == own.content else text
            next_turn = turns[index + 1] if index + 1 < len(turns) else None
            text += _next_mark(known, text, tokenizer, marks, thinking, next_turn) or marks.own
            end = len(text)
        if text is None or end is None or not _is_whole(text[:end], own, form, turns):
            raise DataError(
                f"the chat template changes turn {index + 1} of {where}",
                "remove the text that the template changes, or use another model",
                code="turn_changed_by_template",
                source=where,
                turn=index + 1,
            )
        yield _Answer(prompt, text[:end], turn.weight, thinking)


def _with_tools(before: Conversation, turns: Conversation) -> Conversation:
    tools = next((turn.tools for turn in turns if turn.tools), "")
    if not tools or any(turn.tools for turn in before):
        return before
    return (replace(before[0], tools=tools), *before[1:])


def _own_text(prompt: str, whole: str, turn: Message, form: TemplateForm) -> str | None:
    """What the template writes for a turn behind its prompt; None if its text is not there."""
    end = thought_end(prompt)
    if whole.startswith(prompt):
        text = whole[len(prompt) :]
        # Behind an opened thought, the template may have written the answer at once.
        return text if not end or end.strip() in text else turn.reasoning.strip() + end + text
    text = whole[common_length(prompt, whole) :]
    if (start := _start(text, turn, form)) is None:
        return None
    before = turn.reasoning.strip() + end if end else _before_text(turn, form)
    return before + text[start:]


def _before_text(turn: Message, form: TemplateForm) -> str:
    """What the template writes between a prompt that opens no thought and the answer's text."""
    if not _parts(turn, form)[0]:
        return ""
    if turn.reasoning and form.thought is not None and form.reasoning != "prompt":
        before, between = form.thought
        return before + turn.reasoning.strip() + between
    return form.start


def _start(text: str, turn: Message, form: TemplateForm) -> int | None:
    """Where the answer's own text begins: its content, else its first call, else its end."""
    content, calls = _parts(turn, form)
    if content:
        found = text.find(content)
        return found if found >= 0 else None
    if calls:
        starts = [found.start for found in form.calls.read(text, ())]
        return min(starts, default=None)
    return len(text) - len(text.lstrip())


def _parts(turn: Message, form: TemplateForm) -> tuple[str, int]:
    """The text of a turn as it must stand in the answer, and the number of calls behind it."""
    if form.fields is None or form.calls is HERMES:
        return turn.content.strip(), 0
    content, calls = HERMES.parse(turn.content)
    return content.strip(), len(calls)


def _end(text: str, turn: Message, form: TemplateForm, marks: StopMarks) -> int | None:
    """The end of the stop token after the answer; None if the template writes none.

    Templates strip the answer, put a thought before it or write more behind its stop token. So the
    content is searched for from the end, and must be followed by a stop token.
    """
    content, calls = _parts(turn, form)
    if content and not calls:
        at = text.rfind(content)
        while at >= 0:
            if (end := marks.stop_at(text, at + len(content))) is not None:
                return end
            at = text.rfind(content, 0, at + len(content) - 1)
    if not content and not calls and not turn.reasoning and text.strip():
        return marks.stop_at(text, 0) or marks.last_stop(text)
    return marks.last_stop(text) or (
        marks.ends_special(text) if not content and not calls else None
    )


def _is_whole(text: str, turn: Message, form: TemplateForm, turns: Conversation) -> bool:
    """Whether an answer has its content and all of its calls."""
    content, calls = _parts(turn, form)
    if content not in text:
        return False
    if not calls or len(form.calls.parse(text, offered_tools(turns) or ())[1]) == calls:
        return True
    names = [call.name for call in HERMES.parse(turn.content)[1]]
    return all(text.count(name) >= names.count(name) for name in names)


def _next_mark(
    known: Conversation,
    text: str,
    tokenizer: Any,
    marks: StopMarks,
    thinking: bool | None,
    next_turn: Message | None,
) -> str:
    """The stop token with which the turn after an answer begins; empty if it begins with none.

    An earlier thought may be dropped when a turn follows, but the end of the answer is not.
    """
    role = next_turn.role if next_turn is not None else "user"
    follows = "user" if role in ("assistant", "document") else role
    more = Message(follows, "Next.")
    try:
        longer = conversation_text((*known, more), tokenizer, thinking=thinking)
    except DataError:
        return ""
    end = (known[-1].content.strip() or text)[-_TAIL:]
    at = longer.rfind(end) if text.endswith(end) else -1
    end = text[-_TAIL:] if at < 0 else end
    at = longer.rfind(end)
    return marks.known_at(longer[at + len(end) :]) if at >= 0 else ""
