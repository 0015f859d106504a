"""Converts the fields of a row to conversation turns, with one function per format."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from burnish.conversation import Conversation, Message
from burnish.data.row_errors import RowFormatError, describe, wrong_value
from burnish.data.tool_calls import with_offered_tools
from burnish.data.tracked_row import TrackedRow, is_empty
from burnish.data.turns import (
    SHAREGPT,
    parse_cell,
    read_turn,
    refuse_media,
    text_field,
    turn_list,
    turns_or_text,
)
from burnish.errors import quantity, shown

_IOB2 = re.compile(r"O|[BI]-\S+")
# LLaVA and similar data sets mark the place of an image; inside a text it may be markup.
_PLACEHOLDER = re.compile(r"\s*(<(image|audio|video)>)|.*(<(image|audio|video)>)\s*\Z", re.DOTALL)
# Optional fields of every format that has turns.
TURN_EXTRAS = ("system", "tools", "functions", "history", "reasoning_content")


def chat(values: TrackedRow) -> Conversation:
    """The turns of a row in the chat format of OpenAI, with `messages`."""
    return tuple(
        read_turn(turn, f"messages[{index}].")
        for index, turn in enumerate(turn_list(values, "messages"))
    )


def sharegpt(values: TrackedRow) -> Conversation:
    """The turns of a row in the ShareGPT format, with `conversations`."""
    return tuple(
        read_turn(turn, f"conversations[{index}].", SHAREGPT)
        for index, turn in enumerate(turn_list(values, "conversations"))
    )


def alpaca(values: TrackedRow) -> Conversation:
    """The question and answer of a row with `instruction`, `input` and `output`."""
    parts = [text_field(values, "instruction")]
    if values.get("input") not in (None, ""):
        parts.append(text_field(values, "input"))
    # The instruction may be empty if the input contains all of it.
    question = "\n\n".join(part for part in parts if part.strip())
    return Message("user", question), Message("assistant", text_field(values, "output"))


def question_answer(question: str, answer: str) -> Callable[[TrackedRow], Conversation]:
    """Returns a function that converts a row with a question and an answer.

    Each is text or a list of turns. The turns of the question are not trained on.
    """

    def convert(values: TrackedRow) -> Conversation:
        asks = tuple(
            replace(turn, weight=0.0) if turn.role == "assistant" else turn
            for turn in text_or_turns(values, question, "user")
        )
        answers = text_or_turns(values, answer, "assistant")
        # The answer may be the whole conversation, the prompt included.
        repeats = [(t.role, t.content) for t in answers[: len(asks)]] == [
            (t.role, t.content) for t in asks
        ]
        answers = answers[len(asks) :] if repeats else answers
        if asks[-1].role == "assistant" and answers and answers[0].role == "assistant":
            reason = (
                f"has an assistant turn at the end of {values.column(question)}, before {answer}"
            )
            raise RowFormatError(
                reason,
                "end the prompt with the user's question",
                code="answer_in_prompt",
                field=values.column(question),
            )
        return *asks, *answers

    return convert


def text_or_turns(values: TrackedRow, field: str, role: str) -> Conversation:
    """The field as turns: its text as one turn of `role`, or its list of turns."""
    value = turns_or_text(values.get(field))
    if not _is_turns(value):
        return (Message("user" if role == "user" else "assistant", text_field(values, field)),)
    turns = turn_list(
        TrackedRow({field: value}, {field: values.column(field)}, (values, "")), field
    )
    return tuple(
        read_turn(turn, f"{values.column(field)}[{index}].") for index, turn in enumerate(turns)
    )


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(turn, dict) for turn in value)


def is_squad_answer(value: Any) -> bool:
    """Whether a value has the format of SQuAD answers: an object with `text`, or a list of them."""
    parsed = parse_cell(value)
    items = parsed if isinstance(parsed, list) else [parsed]
    return bool(items) and all(isinstance(item, dict) and "text" in item for item in items)


def squad(values: TrackedRow) -> Conversation:
    """The passage, the question about it and the first listed answer."""
    answers = parse_cell(values.get("answers"))
    if not is_squad_answer(answers):
        raise wrong_value(answers, values.column("answers"), "write an object such as {text: [..]}")
    texts: list[Any] = []
    for item in answers if isinstance(answers, list) else [answers]:
        part = values.part(item, "answers")
        part.get("answer_start")  # the position in the passage is not needed
        text = part.get("text")
        texts += text if isinstance(text, list) else [text]
    name = values.column("answers")
    if not texts:
        remedy = "write the expected answer, such as unanswerable, or delete the row"
        raise RowFormatError(f"has no answer in {name}", remedy, code="no_answer", field=name)
    if not isinstance(texts[0], str):
        raise RowFormatError(
            f"has {describe(texts[0])} in {name}",
            "write the answer as text",
            code="wrong_type",
            field=name,
            value=shown(texts[0]),
        )
    if len(set(map(str, texts))) > 1:
        values.pass_over("answers", ".text after the first")
    context = [text_field(values, "context")] if values.peek("context") else []
    question = "\n\n".join((*context, text_field(values, "question")))
    return Message("user", question), Message("assistant", texts[0])


def text_label(values: TrackedRow) -> Conversation:
    """The text as a user turn and its class as the answer."""
    return Message("user", text_field(values, "text")), Message("assistant", class_label(values))


def class_label(values: TrackedRow) -> str:
    """The class in the `label` field, as text without surrounding spaces."""
    name, value = values.column("label"), values.get("label")
    if name.lower() != "label":
        value = parse_cell(value)
    if isinstance(value, list) and name.lower() != "label":
        if len(value) > 1:
            raise RowFormatError(
                f"has {len(value)} classes in {name} ({', '.join(map(str, value))[:80]})",
                "keep one class per row, or write the classes as the text of an answer",
                code="several_classes",
                field=name,
                count=len(value),
            )
        value = value[0] if value else None
    if not isinstance(value, bool | int | float | str) or value != value:
        raise wrong_value(value, name, "write the class as text or a number")
    if not (label := str(value).strip()):
        raise RowFormatError(
            f"has an empty {name}",
            "write the class there, or delete the row",
            code="empty_label",
            field=name,
        )
    return label


def tokens_tags(values: TrackedRow) -> Conversation:
    """The words as a user turn and their IOB2 tags as the answer."""
    words, tags = _list(values, "tokens", "words"), _list(values, "tags", "tags")
    if len(words) != len(tags):
        raise RowFormatError(
            f"has {quantity(len(words), 'token')} and {quantity(len(tags), 'tag')}",
            "write one tag for each word",
            code="unequal_lengths",
            tokens=len(words),
            tags=len(tags),
        )
    for index, word in enumerate(words):
        if not isinstance(word, str) or word.split() != [word]:
            raise wrong_value(
                word, f"tokens[{index}]", "write one word without white space", code="not_one_word"
            )
    for index, tag in enumerate(tags):
        if not isinstance(tag, str) or not _IOB2.fullmatch(tag):
            raise wrong_value(
                tag, f"tags[{index}]", "write O, B-TYPE or I-TYPE (IOB2)", code="unknown_tag"
            )
        before = tags[index - 1] if index else "O"
        if tag[0] == "I" and tag[2:] != before[2:]:
            reason = f"has {tag!r} as tags[{index}], but no span of that type is open there"
            raise RowFormatError(
                reason,
                f"begin the span with B-{tag[2:]} (IOB2)",
                code="span_not_begun",
                field=f"tags[{index}]",
                value=tag,
            )
    return Message("user", " ".join(words)), Message("assistant", " ".join(tags))


def iob2_tags(values: TrackedRow) -> dict[str, Any]:
    """The `tags` of an Example, one per word."""
    return {"tags": tuple(parse_cell(values["tags"]))}


def _list(values: TrackedRow, field: str, what: str) -> list[Any]:
    items = parse_cell(values.get(field))
    if not isinstance(items, list):
        raise wrong_value(items, field, f"write a list of {what}")
    if not items:
        raise RowFormatError(
            f"has no {what} in {field}", "delete the row", code="empty_list", field=field
        )
    return items


def plain_text(values: TrackedRow) -> Conversation:
    """The text as one document, which has no turns."""
    return (Message("document", text_field(values, "text")),)


def with_row_context(
    convert: Callable[[TrackedRow], Conversation],
) -> Callable[[TrackedRow], Conversation]:
    """Adds the row's reasoning, history, system message and tools to the converted turns.

    Raises:
        RowFormatError: the row has images or audio, or its tools are not functions.
    """

    def complete(values: TrackedRow) -> Conversation:
        turns = _with_reasoning(convert(values), values)
        _check_media(turns, values)
        return with_offered_tools(_with_system(_with_history(turns, values), values), values)

    return complete


def _check_media(turns: Conversation, values: TrackedRow) -> None:
    refuse_media(values)
    for turn in turns:
        mark = _PLACEHOLDER.match(turn.content) if turn.role == "user" else None
        kind = mark and (mark[2] or mark[4])
        if kind and f"</{kind}>" not in turn.content:
            raise RowFormatError(
                f"has a turn with the placeholder <{kind}>, but Burnish reads only text",
                "delete the row, or describe the content as text",
                code="media_placeholder",
                field=kind,
            )


def _with_reasoning(turns: Conversation, values: TrackedRow) -> Conversation:
    """Adds the row's reasoning to its only answer; with several answers it is ambiguous."""
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    value = values.peek("reasoning_content")
    if is_empty(value) or len(answers) != 1 or turns[answers[0]].reasoning:
        return turns
    (at,) = answers
    thought = text_field(values, "reasoning_content")
    return (*turns[:at], replace(turns[at], reasoning=thought), *turns[at + 1 :])


def _with_history(turns: Conversation, values: TrackedRow) -> Conversation:
    """Puts the turns of `history` before the row's own turns."""
    if "history" not in values or is_empty(rounds := parse_cell(values.get("history"))):
        return turns
    hint = "write a list of [question, answer] pairs"
    if not isinstance(rounds, list):
        raise wrong_value(rounds, "history", hint)
    earlier: list[Message] = []
    for index, one in enumerate(rounds):
        where = f"history[{index}]."
        if isinstance(one, dict):
            earlier.append(read_turn(values.part(one, "history"), where))
        elif isinstance(one, list | tuple) and [type(text) for text in one] == [str, str]:
            earlier += [Message("user", one[0]), Message("assistant", one[1])]
        else:
            raise wrong_value(one, where[:-1], hint)
    first = next((n for n, turn in enumerate(turns) if turn.role != "system"), len(turns))
    return (*turns[:first], *earlier, *turns[first:])


def _with_system(turns: Conversation, values: TrackedRow) -> Conversation:
    """Adds the row's system message, unless its turns already have another one."""
    own = next((turn.content for turn in turns if turn.role == "system"), None)
    if values.peek("system") in (None, "") or own not in (None, values.peek("system")):
        return turns
    system = text_field(values, "system")
    return turns if own is not None else (Message("system", system), *turns)


def with_renamed_fields(
    names: Callable[[TrackedRow], TrackedRow], convert: Callable[[TrackedRow], Any]
) -> Callable[[TrackedRow], Any]:
    """Returns `convert` on the row as `names` renames its fields."""
    return lambda values: convert(names(values))


def label_extra(values: TrackedRow) -> dict[str, Any]:
    """The `label` of an Example."""
    return {"label": class_label(values)}
