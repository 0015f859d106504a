"""From the fields of a row to its turns, one function a format."""

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
from burnish.errors import shown

_IOB2 = re.compile(r"O|[BI]-\S+")
# Where a picture stood for LLaVA and its kin; inside a text it may be markup.
_PLACEHOLDER = re.compile(r"\s*(<(image|audio|video)>)|.*(<(image|audio|video)>)\s*\Z", re.DOTALL)
# What every format of turns may have besides.
TURN_EXTRAS = ("system", "tools", "functions", "history", "reasoning_content")


def chat(values: TrackedRow) -> Conversation:
    return tuple(
        read_turn(turn, f"messages[{index}].")
        for index, turn in enumerate(turn_list(values, "messages"))
    )


def sharegpt(values: TrackedRow) -> Conversation:
    return tuple(
        read_turn(turn, f"conversations[{index}].", SHAREGPT)
        for index, turn in enumerate(turn_list(values, "conversations"))
    )


def alpaca(values: TrackedRow) -> Conversation:
    parts = [text_field(values, "instruction")]
    if values.get("input") not in (None, ""):
        parts.append(text_field(values, "input"))
    # An instruction may be empty, the input may say all of it.
    question = "\n\n".join(part for part in parts if part.strip())
    return Message("user", question), Message("assistant", text_field(values, "output"))


def question_answer(question: str, answer: str) -> Callable[[TrackedRow], Conversation]:
    """A question and its answer; each is text or turns, and of those of the question none is
    learnt."""

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
            reason = f"has an answer at the end of {values.column(question)}, before {answer}"
            raise RowFormatError(
                reason,
                "end the prompt with the question",
                code="answer_in_prompt",
                field=values.column(question),
            )
        return *asks, *answers

    return convert


def text_or_turns(values: TrackedRow, field: str, role: str) -> Conversation:
    """Text as one turn of `role`, or the turns that are written there."""
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
    """Whether the answers are those of SQuAD: an object with texts, or a list of such objects."""
    read = parse_cell(value)
    items = read if isinstance(read, list) else [read]
    return bool(items) and all(isinstance(item, dict) and "text" in item for item in items)


def squad(values: TrackedRow) -> Conversation:
    """A passage and a question about it; the answer is the first that is given."""
    read = parse_cell(values.get("answers"))
    if not is_squad_answer(read):
        raise wrong_value(read, values.column("answers"), "write {text: [..]}")
    texts: list[Any] = []
    for item in read if isinstance(read, list) else [read]:
        part = values.part(item, "answers")
        part.get("answer_start")  # where in the passage a text stands adds nothing to it
        found = part.get("text")
        texts += found if isinstance(found, list) else [found]
    name = values.column("answers")
    if not texts:
        remedy = "write what the model should say there, such as unanswerable, or delete the row"
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
    asked = [text_field(values, "context")] if values.peek("context") else []
    question = "\n\n".join((*asked, text_field(values, "question")))
    return Message("user", question), Message("assistant", texts[0])


def text_label(values: TrackedRow) -> Conversation:
    return Message("user", text_field(values, "text")), Message("assistant", class_label(values))


def class_label(values: TrackedRow) -> str:
    name, value = values.column("label"), values.get("label")
    if name.lower() != "label":
        value = parse_cell(value)
    if isinstance(value, list) and name.lower() != "label":
        if len(value) > 1:
            raise RowFormatError(
                f"has {len(value)} classes in {name} ({', '.join(map(str, value))[:80]})",
                "keep one class a row, or write them as the text of an answer: prompt, completion",
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
            "write the class, or delete the row",
            code="empty_label",
            field=name,
        )
    return label


def tokens_tags(values: TrackedRow) -> Conversation:
    words, tags = _list(values, "tokens", "words"), _list(values, "tags", "tags")
    if len(words) != len(tags):
        raise RowFormatError(
            f"has {len(words)} tokens and {len(tags)} tags",
            "give each word a tag",
            code="unequal_lengths",
            tokens=len(words),
            tags=len(tags),
        )
    for place, word in enumerate(words):
        if not isinstance(word, str) or word.split() != [word]:
            raise wrong_value(
                word, f"tokens[{place}]", "write one word without white space", code="not_one_word"
            )
    for place, tag in enumerate(tags):
        if not isinstance(tag, str) or not _IOB2.fullmatch(tag):
            raise wrong_value(
                tag, f"tags[{place}]", "write O, B-TYPE or I-TYPE (IOB2)", code="unknown_tag"
            )
        before = tags[place - 1] if place else "O"
        if tag[0] == "I" and tag[2:] != before[2:]:
            reason = f"has {tag!r} as tags[{place}], where no span of that type goes on"
            raise RowFormatError(
                reason,
                f"begin the span with B-{tag[2:]} (IOB2)",
                code="span_not_begun",
                field=f"tags[{place}]",
                value=tag,
            )
    return Message("user", " ".join(words)), Message("assistant", " ".join(tags))


def iob2_tags(values: TrackedRow) -> dict[str, Any]:
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
    return (Message("document", text_field(values, "text")),)


def with_row_context(
    convert: Callable[[TrackedRow], Conversation],
) -> Callable[[TrackedRow], Conversation]:
    """The turns with what else the row has to them: reasoning, history, system text and tools.

    Raises:
        MisfitError: the row has pictures or sounds, or tools that are none.
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
                f"has a turn with the placeholder <{kind}>, and only text is read",
                "leave the row out, or write what it shows as text",
                code="media_placeholder",
                field=kind,
            )


def _with_reasoning(turns: Conversation, values: TrackedRow) -> Conversation:
    """The row's reasoning in its only answer; of several, nothing says whose it is."""
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    value = values.peek("reasoning_content")
    if is_empty(value) or len(answers) != 1 or turns[answers[0]].reasoning:
        return turns
    (at,) = answers
    thought = text_field(values, "reasoning_content")
    return (*turns[:at], replace(turns[at], reasoning=thought), *turns[at + 1 :])


def _with_history(turns: Conversation, values: TrackedRow) -> Conversation:
    """Earlier rounds, as pairs of question and answer or as turns, before the row's own."""
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
    """The row's system text, unless its turns have another; then it stays unread."""
    own = next((turn.content for turn in turns if turn.role == "system"), None)
    if values.peek("system") in (None, "") or own not in (None, values.peek("system")):
        return turns
    system = text_field(values, "system")
    return turns if own is not None else (Message("system", system), *turns)


def with_renamed_fields(
    names: Callable[[TrackedRow], TrackedRow], convert: Callable[[TrackedRow], Any]
) -> Callable[[TrackedRow], Any]:
    return lambda values: convert(names(values))


def label_extra(values: TrackedRow) -> dict[str, Any]:
    return {"label": class_label(values)}
