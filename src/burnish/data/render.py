"""Conversations to tokens through the model's own chat template, each with its loss weight."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jinja2 import TemplateError

from burnish.chat import Conversation, Example
from burnish.errors import DataError
from burnish.run_directory import Finding

_AT_ONCE = 1000
# For models without a chat template. A role stands on its own line, so that the first token of an
# answer is the same after the prompt alone and in the whole conversation.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['role'] }}:\n"
    "{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """Tokens of a row, and for each the weight of predicting it; the first weight is 0."""

    id: str
    tokens: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """Characters [start, end) that are learnt with `weight`."""

    start: int
    end: int
    weight: float


def render(example: Example, tokenizer: Any, *, max_length: int | None = None) -> Rendered:
    """One row; see `render_all`.

    Raises:
        DataError: the row is longer than `max_length`, or its template cannot be taken apart.
    """
    rendered = next(_render([example], tokenizer))
    if max_length is not None and len(rendered.tokens) > max_length:
        raise DataError(
            f"{example.source or example.id} has {len(rendered.tokens)} tokens, more than "
            f"{max_length}",
            "shorten it, or raise training.max_length",
        )
    return rendered


def render_all(
    examples: Sequence[Example], tokenizer: Any, max_length: int | None
) -> tuple[list[Rendered], Finding | None]:
    """All rows that fit; a row that is too long is left out and told, never cut.

    The tokens of a conversation are those of `apply_chat_template`. Learnt are the assistant turns
    with a weight, stop token included; of a document, every token after the first.

    Raises:
        DataError: nothing would be learnt.
    """
    limit = max_length or int(min(tokenizer.model_max_length, 1 << 30))
    kept: list[Rendered] = []
    longer: list[str] = []
    longest = 0
    for example, row in zip(examples, _render(examples, tokenizer), strict=True):
        longest = max(longest, len(row.tokens))
        if len(row.tokens) > limit:
            longer.append(example.source)
        else:
            kept.append(row)
    if not any(weight for row in kept for weight in row.weights):
        raise DataError(
            f"nothing would be learnt from {len(examples)} rows",
            "give each row an assistant turn with a weight above 0 and at most "
            f"{limit} tokens in all",
        )
    if not longer:
        return kept, None
    message = (
        f"{len(longer)} rows are longer than {limit} tokens (the longest has {longest}) and were "
        "left out; shorten them or raise training.max_length"
    )
    return kept, Finding("too long", "warning", message, len(longer), tuple(longer[:5]))


def render_prompt(conversation: Conversation, tokenizer: Any) -> list[int]:
    """Tokens up to the place where the assistant begins to answer."""
    text = _template(conversation, tokenizer, answer=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _render(examples: Iterable[Example], tokenizer: Any) -> Iterator[Rendered]:
    rows = iter(examples)
    while chunk := list(islice(rows, _AT_ONCE)):
        texts, spans = zip(*(_text_and_spans(e, tokenizer) for e in chunk), strict=True)
        encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        for example, tokens, places, learnt in zip(
            chunk, encoded["input_ids"], offsets, spans, strict=True
        ):
            yield _weighted(example, tokens, places, learnt, tokenizer.eos_token_id)


def _text_and_spans(example: Example, tokenizer: Any) -> tuple[str, list[_Span]]:
    turns = example.messages
    if turns[0].role == "document":
        text = (tokenizer.bos_token or "") + turns[0].content + tokenizer.eos_token
        return text, [_Span(0, len(text), turns[0].weight)]
    text = _template(turns, tokenizer)
    spans = []
    for place, turn in enumerate(turns):
        if turn.role == "assistant" and turn.weight > 0:
            before = _template(turns[:place], tokenizer, answer=True)
            upto = text if place == len(turns) - 1 else _template(turns[: place + 1], tokenizer)
            if not (text.startswith(before) and text.startswith(upto)):
                raise DataError(
                    f"the chat template renders turn {place + 1} of {example.source or example.id} "
                    "otherwise when more turns follow",
                    "split the conversation into rows that end at this turn",
                )
            spans.append(_Span(len(before), len(upto), turn.weight))
    return text, spans


def _weighted(
    example: Example,
    tokens: list[int],
    places: list[tuple[int, int]],
    spans: list[_Span],
    stop: int,
) -> Rendered:
    weights = [0.0] * len(tokens)
    at = 0
    for span in spans:
        while at < len(tokens) and places[at][0] < span.start:
            at += 1
        first = at
        while at < len(tokens) and places[at][0] < span.end:
            at += 1
        # What the template puts behind the stop token (a line break) belongs to the next turn.
        last = max((t for t in range(first, at) if tokens[t] == stop), default=at - 1)
        weights[first : last + 1] = [span.weight] * (last + 1 - first)
    if weights:
        weights[0] = 0.0
    return Rendered(example.id, tuple(tokens), tuple(weights))


def _template(turns: Conversation, tokenizer: Any, *, answer: bool = False) -> str:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=tokenizer.chat_template or PLAIN_TEMPLATE,
            tokenize=False,
            add_generation_prompt=answer,
        )
    except TemplateError as error:
        raise DataError(
            f"the model's chat template refuses a conversation ({error})",
            "order the turns as the model expects, user and assistant in turn",
        ) from error
    return text
