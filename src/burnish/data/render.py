"""Renders conversations to tokens with loss weights, through the model's own chat template."""

import functools
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from burnish.conversation import Conversation, Example, Message
from burnish.data.chat_templates import stop_texts, template_for
from burnish.data.tool_calls import offered_tools
from burnish.data.turns import REASONING
from burnish.errors import DataError
from burnish.runs.directory import Finding

_AT_ONCE = 1000
_SPACE = re.compile(r"\s*")
# It has no width, so a reader sees the same text.
_JOINER = "\N{WORD JOINER}"
_SHORTEST_NAME = 3


@dataclass(frozen=True, slots=True)
class Rendered:
    """Tokens of a row, and the loss weight of predicting each; the first weight is 0."""

    id: str
    tokens: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """Characters [start, end) that are trained on with `weight`; they end with a stop token."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True)
class _SpecialTokens:
    """The special tokens around texts. Build it once: it iterates over all added tokens."""

    head: list[int]
    tail: list[int]
    stops: frozenset[str]
    stop_lengths: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> "_SpecialTokens":
        stops = _special(tokenizer) | stop_texts(tokenizer)
        # A tokenizer may have a start token that it never adds: SmolLM2's opens chat turns.
        start = tokenizer("")["input_ids"][:1]
        return cls(
            head=start if start == [tokenizer.bos_token_id] else [],
            tail=[] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id],
            stops=stops,
            stop_lengths=tuple(sorted({len(stop) for stop in stops}, reverse=True)),
        )

    def stop_end(self, text: str, at: int) -> int | None:
        """The end of the stop token that starts at `at`; None if there is none."""
        ends = (at + n for n in self.stop_lengths if text[at : at + n] in self.stops)
        return next(ends, None)


def render(example: Example, tokenizer: Any, *, max_length: int | None = None) -> Rendered:
    """Renders one row; see `render_all`.

    Raises:
        DataError: the row is longer than `max_length`, or its answers cannot be located in the
            rendered text.
    """
    rendered = next(_render([example], tokenizer))
    if max_length is not None and len(rendered.tokens) > max_length:
        raise DataError(
            f"{_where(example)} has {len(rendered.tokens)} tokens, more than {max_length}",
            "shorten the row, or raise training.max_length",
            code="too_many_tokens",
            source=_where(example),
            tokens=len(rendered.tokens),
            limit=max_length,
        )
    return rendered


def render_all(
    examples: Sequence[Example], tokenizer: Any, max_length: int | None
) -> tuple[list[Rendered], Finding | None]:
    """Renders all rows that fit; a row that is too long is left out and reported, never cut.

    The tokens of a conversation are those of `apply_chat_template`, except that text which the
    model did not write never becomes a special token (`escape_special_tokens`). The assistant turns
    with a weight are trained on, stop token included; of a document, every token after the first.

    Raises:
        DataError: no token of the rows would be trained on.
    """
    limit = max_length or int(min(tokenizer.model_max_length, 1 << 30))
    kept, finding = drop_longer(examples, _render(examples, tokenizer), limit)
    if not any(weight for row in kept for weight in row.weights):
        raise DataError(
            f"no token of the {len(examples)} rows would be trained on",
            "use rows with an assistant turn whose weight is above 0, and with at most "
            f"{limit} tokens",
            code="nothing_learnt",
            count=len(examples),
            limit=limit,
        )
    return kept, finding


def drop_longer(
    examples: Sequence[Example], rows: Iterable[Rendered], limit: int
) -> tuple[list[Rendered], Finding | None]:
    """The rows of at most `limit` tokens, and a finding about the longer ones."""
    kept: list[Rendered] = []
    longer: list[str] = []
    longest = 0
    for example, row in zip(examples, rows, strict=True):
        longest = max(longest, len(row.tokens))
        if len(row.tokens) > limit:
            longer.append(example.source)
        else:
            kept.append(row)
    if not longer:
        return kept, None
    message = (
        f"{len(longer)} rows are longer than {limit} tokens (the longest has {longest}) and were "
        "left out"
    )
    return kept, Finding("too long", "warning", message, len(longer), tuple(longer[:5]))


def escape_special_tokens(role: str, text: str, tokenizer: Any) -> str:
    """The text of a turn, with a zero-width character in each special token that it contains.

    Assistant turns are unchanged. Without this, a user who writes `<|im_end|>` into a message would
    end the turn and could continue as another role.
    """
    names = _special_names(tokenizer)
    if role == "assistant" or names is None:
        return text
    return names.sub(lambda match: match[0][0] + _JOINER + match[0][1:], text)


def template_stop_token(tokenizer: Any) -> int | None:
    """The token that the chat template writes after an answer; None if it writes none, or cannot
    render a plain question and answer."""
    example = Example("", (Message("user", "Hello?"), Message("assistant", "Hello.")))
    try:
        (rendered,) = _render([example], tokenizer)
    except DataError:
        return None
    learnt = [
        token for token, weight in zip(rendered.tokens, rendered.weights, strict=True) if weight
    ]
    return learnt[-1] if learnt else None


def render_prompt(conversation: Conversation, tokenizer: Any) -> list[int]:
    """Tokens of the prompt, up to where the assistant's answer begins."""
    text = _template(conversation, tokenizer, answer=True)
    # Not verbose: prompts that are too long are left out and reported elsewhere.
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def render_prompts(
    examples: Sequence[Example], tokenizer: Any, max_length: int | None, answer: int
) -> tuple[list[Rendered], Finding | None]:
    """Prompts that leave room for `answer` tokens; their last token has the weight 1."""
    limit = (max_length or int(min(tokenizer.model_max_length, 1 << 30))) - answer
    prompts = ((e.id, render_prompt(e.prompt, tokenizer)) for e in examples)
    rows = (Rendered(n, tuple(p), (*[0.0] * (len(p) - 1), 1.0)) for n, p in prompts)
    kept, finding = drop_longer(examples, rows, limit)
    if not kept:
        seen = f"all {len(examples)} prompts have more than {limit} tokens"
        remedy = "shorten the prompts, or lower max_new_tokens"
        raise DataError(seen, remedy, code="prompts_too_long", count=len(examples), limit=limit)
    return kept, finding


def render_answers(
    examples: Sequence[Example], tokenizer: Any, max_length: int | None
) -> tuple[list[Rendered], Finding | None]:
    """Rows whose chosen and rejected answers fit; returns the longer rendering of each."""
    limit = max_length or int(min(tokenizer.model_max_length, 1 << 30))
    chosen, _ = render_all([with_answer(e, e.expected) for e in examples], tokenizer, 1 << 30)
    pairs = [with_answer(e, e.rejected) for e in examples if e.rejected is not None]
    rejected = iter(render_all(pairs, tokenizer, 1 << 30)[0] if pairs else [])
    longer = [
        row if e.rejected is None else max(row, next(rejected), key=lambda r: len(r.tokens))
        for e, row in zip(examples, chosen, strict=True)
    ]
    kept, finding = drop_longer(examples, longer, limit)
    if not kept:
        seen = f"all {len(examples)} rows have more than {limit} tokens with their answers"
        remedy = "shorten the rows, or raise training.max_length"
        raise DataError(seen, remedy, code="answers_too_long", count=len(examples), limit=limit)
    return kept, finding


def hidden_reasoning(
    examples: Sequence[Example], tokenizer: Any, *, is_shown: bool = True
) -> list[Finding]:
    """Finds rows whose reasoning is not trained on, because the chat template omits it.

    Args:
        is_shown: False for objectives that use only the text of an answer.
    """
    lost = []
    for example in examples:
        thoughts = [turn.reasoning.strip() for turn in example.messages if turn.learnt]
        if any(thoughts):
            text = _template(example.messages, tokenizer, where=_where(example))
            if not is_shown or any(thought not in text for thought in thoughts):
                lost.append(example.source)
    message = (
        f"{len(lost)} rows have reasoning in an assistant turn that is not trained on, because the "
        "model's chat template omits it"
    )
    remedy = "use a model whose template includes reasoning, or write the reasoning in the content"
    where = tuple(lost[:5])
    return [Finding("reasoning", "warning", message, len(lost), where, remedy)] if lost else []


def with_answer(example: Example, answer: str) -> Example:
    """The row with this answer, the only turn that is trained on."""
    prompt = tuple(replace(turn, weight=0.0) for turn in example.prompt)
    return replace(example, messages=(*prompt, Message("assistant", answer)))


def _render(examples: Iterable[Example], tokenizer: Any) -> Iterator[Rendered]:
    rows = iter(examples)
    marks = _SpecialTokens.of(tokenizer)
    while chunk := list(islice(rows, _AT_ONCE)):
        texts, spans = zip(*(_text_and_spans(e, tokenizer, marks) for e in chunk), strict=True)
        encoded = tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        for row, example in enumerate(chunk):
            tokens = encoded["input_ids"][row]
            if example.messages[0].role == "document":
                yield _document(example, [*marks.head, *tokens, *marks.tail])
            else:
                weights = _weights(texts[row], encoded["offset_mapping"][row], spans[row])
                yield Rendered(example.id, tuple(tokens), weights)


def _document(example: Example, tokens: Sequence[int]) -> Rendered:
    weights = [0.0] + [example.messages[0].weight] * (len(tokens) - 1)
    return Rendered(example.id, tuple(tokens), tuple(weights[: len(tokens)]))


def _text_and_spans(
    example: Example, tokenizer: Any, marks: _SpecialTokens
) -> tuple[str, list[_Span]]:
    turns = example.messages
    if turns[0].role == "document":
        return turns[0].content, []
    text = _template(turns, tokenizer, where=_where(example))
    spans = []
    for place, turn in enumerate(turns):
        if turn.role == "assistant" and turn.weight > 0:
            start = _start(text, example, place, tokenizer)
            end = _end(text, start, turn.content, marks)
            if end is None:
                raise DataError(
                    f"the chat template changes turn {place + 1} of {_where(example)}, or writes "
                    "no stop token after it",
                    "remove the text that the template changes, set model_settings.stop_tokens to "
                    "the token that ends a turn, or use another model",
                    code="turn_changed_by_template",
                    source=_where(example),
                    turn=place + 1,
                )
            spans.append(_Span(start, end, turn.weight))
    return text, spans


def _where(example: Example) -> str:
    return example.source or example.id


def _start(text: str, example: Example, place: int, tokenizer: Any) -> int:
    """Index where the answer of turn `place` begins, equal to the length of its prompt."""
    if place == 0:
        raise DataError(
            f"{_where(example)} starts with an assistant turn",
            "add a user turn before it",
            code="starts_with_assistant",
            source=_where(example),
        )
    turns = example.messages[:place]
    before = _template(turns, tokenizer, answer=True, where=_where(example))
    if not text.startswith(before):
        raise DataError(
            f"the chat template renders the text before turn {place + 1} of {_where(example)} "
            "differently when more turns follow",
            "split the conversation into rows that end at this turn, or use another model",
            code="prompt_changed_by_template",
            source=_where(example),
            turn=place + 1,
        )
    return len(before)


def _end(text: str, start: int, content: str, marks: _SpecialTokens) -> int | None:
    """The end of the stop token after the answer.

    Templates strip the answer, or put an empty thought before it. So the answer is searched for
    after the header, and must be followed by a stop token after at most white space.
    """
    wanted = content.strip()
    at = text.find(wanted, start)
    while at >= 0:
        space = _SPACE.match(text, at + len(wanted))
        if space and (end := marks.stop_end(text, space.end())) is not None:
            return end
        at = text.find(wanted, at + 1)
    return None


def _weights(
    text: str, places: Sequence[tuple[int, int]], spans: Sequence[_Span]
) -> tuple[float, ...]:
    """The loss weight of each token: its span's weight, or 0 outside of all spans."""
    weights = [0.0] * len(places)
    starts = [start for start, _ in places]
    for span in spans:
        first = bisect_left(starts, span.start)
        # White space before the answer may be part of its first token.
        if first and places[first - 1][1] > span.start:
            first -= text[starts[first - 1] : span.start].isspace()
        last = bisect_left(starts, span.end)
        weights[first:last] = [span.weight] * (last - first)
    weights[:1] = [0.0]
    return tuple(weights)


def _special(tokenizer: Any) -> frozenset[str]:
    added = tokenizer.added_tokens_decoder.values()
    return frozenset(tokenizer.all_special_tokens) | {t.content for t in added if t.special}


@functools.lru_cache(maxsize=8)  # it iterates over all added tokens
def _special_names(tokenizer: Any) -> re.Pattern[str] | None:
    names = sorted((n for n in _special(tokenizer) if len(n) >= _SHORTEST_NAME), key=len)
    return re.compile("|".join(map(re.escape, reversed(names)))) if names else None


def _template(
    turns: Conversation, tokenizer: Any, *, answer: bool = False, where: str = "a prompt"
) -> str:
    tools = offered_tools(turns)
    template = template_for(tokenizer, tools)
    thoughts = [name for name in REASONING if name in template]
    messages = [
        {"role": turn.role, "content": escape_special_tokens(turn.role, turn.content, tokenizer)}
        | (dict.fromkeys(thoughts, turn.reasoning) if turn.reasoning else {})
        for turn in turns
    ]
    if tools and "tools" not in template:
        raise DataError(
            f"{where} offers tools, but the model's chat template does not support tools",
            "remove the tools, or use a model whose template supports them",
            code="no_template_for_tools",
            source=where,
        )
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tools=tools,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=answer,
        )
    except TemplateSyntaxError as error:
        raise DataError(
            f"the model's chat template has a syntax error in line {error.lineno} ({error})",
            "fix it in the model's chat_template.jinja or tokenizer_config.json",
            code="broken_template",
            line=error.lineno,
            reason=str(error),
        ) from error
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise DataError(
            f"the model's chat template rejects {where} ({error})",
            "arrange the turns as the model expects, with user and assistant alternating",
            code="refused_by_template",
            source=where,
            reason=str(error),
        ) from error
    return text
