"""The supported row formats: the fields of each, their aliases, and the conversion to turns.

A new format needs one entry in FORMATS and its conversion.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from burnish.conversation import Conversation
from burnish.data.conversions import (
    TURN_EXTRAS,
    alpaca,
    chat,
    iob2_tags,
    is_squad_answer,
    label_extra,
    plain_text,
    question_answer,
    sharegpt,
    squad,
    text_label,
    tokens_tags,
    with_renamed_fields,
    with_row_context,
)
from burnish.data.preferences import (
    chosen_turns,
    from_conversation_pair,
    from_openai_preference,
    liked_extra,
    prompt_turns,
    prompt_with_answer,
    rejected_extra,
    second_answer_extra,
    with_separate_prompt,
)
from burnish.data.tracked_row import TrackedRow
from burnish.data.turns import parse_judgement

Aliases = Mapping[str, tuple[str, ...]]
_ANSWERS = ("completion", "response", "output", "answer")
JUDGEMENT_COLUMNS = ("label", "kto_tag", "liked", "is_liked", "thumbs_up")
_SYSTEM: Aliases = {
    "system": ("system_prompt",),
    "reasoning_content": ("reasoning", "thinking"),
}


@dataclass(frozen=True, slots=True)
class Format:
    """A row format. A row has the first format of FORMATS whose `required` fields it contains.

    Attributes:
        required: fields that a row must have.
        convert: returns the turns of a row.
        optional: fields that a row may have.
        extras: returns the other fields of the Example, by name.
        aliases: other names of a field, the most likely first.
        judged: whether `label` must be true or false in this format.
        admits: whether a value of `answers` fits this format.
        answered: whether rows contain an answer to train on.
    """

    name: str
    required: tuple[str, ...]
    convert: Callable[[TrackedRow], Conversation]
    optional: tuple[str, ...] = ()
    extras: Callable[[TrackedRow], dict[str, Any]] = lambda values: {}
    aliases: Aliases = field(default_factory=dict)
    judged: bool = False
    admits: Callable[[Any], bool] | None = None
    answered: bool = True

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of the format, the required ones first."""
        return self.required + self.optional

    @property
    def is_plain(self) -> bool:
        """Whether this is not a variant of another format with a judgement or a rejected answer."""
        return not self.judged and self.extras is not second_answer_extra

    @property
    def is_last(self) -> bool:
        """Whether rows have this format only if no other format fits."""
        return self.convert is plain_text or not self.answered


def _synonyms(answer: str) -> Aliases:
    return {answer: tuple(name for name in _ANSWERS if name != answer), **_SYSTEM}


_PROMPT_ALIASES: Aliases = {
    "prompt": ("instruction", "question", "query", "input", "messages", "conversations"),
    "chosen": ("chosen_response",),
    "rejected": ("rejected_response",),
    **_SYSTEM,
}
_ALPACA = {**_synonyms("output"), "input": ("context",)}
_WITH_ANSWERS: tuple[Format, ...] = (
    Format("chat", ("messages",), with_row_context(chat), TURN_EXTRAS, aliases=_SYSTEM),
    Format(
        "ShareGPT", ("conversations",), with_row_context(sharegpt), TURN_EXTRAS, aliases=_SYSTEM
    ),
    Format(
        "Alpaca",
        ("instruction", "output"),
        with_row_context(alpaca),
        ("input", *TURN_EXTRAS),
        aliases=_ALPACA,
    ),
    Format(
        "prompt/completion",
        ("prompt", "completion"),
        with_row_context(question_answer("prompt", "completion")),
        TURN_EXTRAS,
        aliases=_synonyms("completion"),
    ),
    Format(
        "question/answer",
        ("question", "answer"),
        with_row_context(question_answer("question", "answer")),
        TURN_EXTRAS,
        aliases={**_synonyms("answer"), "question": ("query",)},
    ),
    Format(
        "SQuAD",
        ("question", "answers"),
        with_row_context(squad),
        ("context", *TURN_EXTRAS),
        aliases=_SYSTEM,
        admits=is_squad_answer,
    ),
    Format(
        "input/output",
        ("input", "output"),
        with_row_context(question_answer("input", "output")),
        TURN_EXTRAS,
        aliases=_synonyms("output"),
    ),
)


def _with_rejected(forms: tuple[Format, ...]) -> Iterator[Format]:
    """The same formats with a second, rejected answer."""
    for form in forms:
        if form.admits:
            continue
        yield Format(
            f"{form.name} with a rejected answer",
            (*form.required, "rejected"),
            form.convert,
            form.optional,
            extras=second_answer_extra,
            aliases={**form.aliases, "rejected": ("rejected_response",)},
        )


def _with_judgement(forms: tuple[Format, ...]) -> Iterator[Format]:
    """The same formats with a judgement of the answer."""
    for form in forms:
        if form.admits or form.name == "prompt/completion":
            continue  # there a label is always a judgement
        yield Format(
            f"judged {form.name}",
            (*form.required, "label"),
            form.convert,
            form.optional,
            extras=liked_extra,
            aliases={**form.aliases, "label": JUDGEMENT_COLUMNS[1:]},
            judged=True,
        )


FORMATS: tuple[Format, ...] = (
    Format(
        "preference",
        ("prompt", "chosen", "rejected"),
        with_renamed_fields(with_separate_prompt, with_row_context(chosen_turns)),
        ("input", *TURN_EXTRAS),
        extras=with_renamed_fields(with_separate_prompt, rejected_extra),
        aliases=_PROMPT_ALIASES,
    ),
    Format(
        "OpenAI preference",
        ("input", "preferred_output", "non_preferred_output"),
        with_renamed_fields(from_openai_preference, with_row_context(chosen_turns)),
        extras=with_renamed_fields(from_openai_preference, rejected_extra),
    ),
    Format(
        "preference of conversations",
        ("chosen", "rejected"),
        with_renamed_fields(from_conversation_pair, with_row_context(chosen_turns)),
        TURN_EXTRAS,
        extras=with_renamed_fields(from_conversation_pair, rejected_extra),
        aliases=_SYSTEM,
    ),
    Format(
        "judged answer",
        ("prompt", "completion", "label"),
        with_row_context(prompt_with_answer("completion")),
        TURN_EXTRAS,
        extras=liked_extra,
        aliases={**_synonyms("completion"), "label": JUDGEMENT_COLUMNS[1:]},
    ),
    *_with_rejected(_WITH_ANSWERS),
    *_with_judgement(_WITH_ANSWERS),
    *_WITH_ANSWERS,
    Format(
        "text/label",
        ("text", "label"),
        text_label,
        extras=label_extra,
        aliases={"label": ("labels",)},
    ),
    Format("tokens/tags", ("tokens", "tags"), tokens_tags, extras=iob2_tags),
    Format("plain text", ("text",), plain_text),
    Format(
        "prompt",
        ("prompt",),
        with_row_context(prompt_turns),
        TURN_EXTRAS,
        aliases=_SYSTEM,
        answered=False,
    ),
)
KNOWN = {"id", "group"}.union(
    *(form.fields for form in FORMATS),
    *(names for form in FORMATS for names in form.aliases.values()),
)


def is_missing(name: str, value: Any) -> bool:
    """Whether a field has no value: null, or an empty list of turns."""
    return value is None or (name in ("messages", "conversations") and value in ("", "[]", []))


def match_columns(
    form: Format, values: Mapping[str, Any], mapped: set[str], is_filled: bool, allowed: bool
) -> dict[str, str] | None:
    """The column for each field of a format that the row contains; None if it does not fit."""
    if not mapped <= set(form.fields):
        return None
    found: dict[str, str] = {}
    for name in form.fields:
        names = [name]
        if name not in mapped and (allowed or name not in _ANSWERS):
            names += [other for other in form.aliases.get(name, ()) if other not in mapped]
        held = [n for n in names if n in values and not (is_filled and is_missing(n, values[n]))]
        held = [n for n in held if n not in found.values()]
        # Of two columns that may hold the answer none is taken, unless one has the field's name.
        if name in _ANSWERS and name not in held and len(held) > 1:
            held = []
        if name in form.required and not held:
            return None
        if held and name not in found:
            found[name] = held[0]
    if form.judged and "label" not in mapped and parse_judgement(values[found["label"]]) is None:
        return None
    if form.admits and not form.admits(values[found["answers"]]):
        return None
    return found
