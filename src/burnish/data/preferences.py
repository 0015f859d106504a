"""Converts rows with preferences, judged answers, or prompts without an answer."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from burnish.conversation import Conversation, Message
from burnish.data.conversions import text_or_turns
from burnish.data.row_errors import RowFormatError, wrong_value
from burnish.data.tracked_row import TrackedRow
from burnish.data.turns import (
    parse_cell,
    parse_judgement,
    read_turn,
    text_field,
    turn_list,
    turns_or_text,
)
from burnish.errors import quantity


def prompt_turns(values: TrackedRow) -> Conversation:
    """The prompt as turns: text, with the `input` of an instruction, or a list of turns."""
    turns = text_or_turns(values, "prompt", "user")
    if values.column("prompt").lower() == "instruction" and values.peek("input"):
        parts = (turns[-1].content, text_field(values, "input"))
        whole = "\n\n".join(part for part in parts if part.strip())
        return (*turns[:-1], Message("user", whole))
    return turns


def _reply(values: TrackedRow, field: str) -> str:
    """The text of an answer: a string, a turn, or a list with one assistant turn."""
    value = turns_or_text(values.get(field))
    if not isinstance(value, list):
        return text_field(values, field)
    view = TrackedRow({field: value}, {field: values.column(field)}, (values, ""))
    # Only the text counts here: a weight or reasoning in the turn is reported as unused.
    turns = [read_turn(turn, f"{field}.", learnt=False) for turn in turn_list(view, field)]
    if [turn.role for turn in turns] != ["assistant"]:
        raise RowFormatError(
            f"has {quantity(len(turns), 'turn')} in {field}",
            "keep one assistant turn",
            code="not_one_answer",
            field=field,
            count=len(turns),
        )
    return turns[0].content


def prompt_with_answer(field: str) -> Callable[[TrackedRow], Conversation]:
    """Returns a function that converts a row to its prompt and the answer in `field`."""

    def convert(values: TrackedRow) -> Conversation:
        turns, answer = prompt_turns(values), Message("assistant", _reply(values, field))
        if turns[-1].role == "assistant" and turns[-1].content == answer.content:
            return turns  # the prompt already contains the answer
        if turns[-1].role == "assistant":
            reason = (
                f"has an assistant turn at the end of {values.column('prompt')}, before {field}"
            )
            raise RowFormatError(
                reason,
                "end the prompt with the user's question",
                code="answer_in_prompt",
                field=values.column("prompt"),
            )
        return (*turns, answer)

    return convert


def with_separate_prompt(values: TrackedRow) -> TrackedRow:
    """The row with its prompt in `prompt` alone, even if both answers repeat it.

    Raises:
        RowFormatError: the answers begin with a different prompt than the row.
    """
    answers = {field: turns_or_text(values.peek(field)) for field in ("chosen", "rejected")}
    if not all(isinstance(turns, list) and len(turns) > 1 for turns in answers.values()):
        return values
    whole = from_conversation_pair(values)
    before, prompt = whole.peek("prompt"), turns_or_text(values.get("prompt"))
    texts = [turn.get("content", turn.get("value")) for turn in before if isinstance(turn, dict)]
    if prompt in (before, turns_or_text(values.peek("chosen"))) or (
        isinstance(prompt, str) and prompt in texts
    ):
        return whole
    raise RowFormatError(
        "has a prompt that differs from the beginning of chosen and rejected",
        "write the prompt only in prompt",
        code="other_prompt",
    )


def rejected_extra(values: TrackedRow) -> dict[str, Any]:
    """The `rejected` answer of an Example; it must differ from the chosen one."""
    chosen, rejected = _reply(values, "chosen"), _reply(values, "rejected")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer.strip():  # an empty answer has no probability to compare
            raise RowFormatError(
                f"has an empty answer as {name}",
                "write the answer, or delete the row",
                code="empty_answer",
                field=name,
            )
    if chosen == rejected:
        raise RowFormatError(
            "has the same answer as chosen and rejected", "delete the row", code="same_answers"
        )
    return {"rejected": rejected}


def second_answer_extra(values: TrackedRow) -> dict[str, Any]:
    """The `rejected` answer of an Example whose preferred answer is the last turn."""
    rejected = _reply(values, "rejected")
    if not rejected.strip():
        raise RowFormatError(
            f"has an empty answer as {values.column('rejected')}",
            "write the answer, or delete the row",
            code="empty_answer",
            field=values.column("rejected"),
        )
    return {"rejected": rejected}


def liked_extra(values: TrackedRow) -> dict[str, Any]:
    """The `liked` judgement of an Example: whether its answer is a good one."""
    value = values.get("label")
    if (is_liked := parse_judgement(value)) is None:
        raise wrong_value(
            value, values.column("label"), "write true (liked) or false", code="not_true_or_false"
        )
    return {"liked": is_liked}


def other_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The row's fields besides its prompt, for graders; values that JSON lacks become text."""
    rest = {name: value for name, value in values.items() if name not in ("prompt", "id", "group")}
    return {"item": json.loads(json.dumps(rest, default=str))} if rest else {}


def from_openai_preference(values: TrackedRow) -> TrackedRow:
    """Renames the fields of OpenAI's preference format to prompt, chosen and rejected."""
    source = parse_cell(values.get("input"))
    if not isinstance(source, dict):
        raise wrong_value(source, "input", "write an object with messages")
    ours = {
        "prompt": source.get("messages"),
        "tools": source.get("tools"),
        "chosen": values.peek("preferred_output"),
        "rejected": values.peek("non_preferred_output"),
    }
    columns = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    return values.renamed(ours, columns | {"prompt": "input", "tools": "input"})


def from_conversation_pair(values: TrackedRow) -> TrackedRow:
    """Splits two conversations that differ only in the last turn into prompt and answers."""
    chosen, rejected = (turns_or_text(values.get(field)) for field in ("chosen", "rejected"))
    for field, turns in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(turns, list) or not turns:
            turn_list(values, field)  # raises the error
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise RowFormatError(
            "has chosen and rejected conversations that differ before the last turn",
            "make them equal up to the last turn",
            code="other_prompt",
        )
    columns = {field: values.column(field) for field in ("chosen", "rejected")}
    ours = {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
    besides = {name: values.peek(name) for name in values if name not in ours}
    return values.renamed(besides | ours, columns | {"prompt": columns["chosen"]})


chosen_turns = prompt_with_answer("chosen")
