"""Renders conversations to tokens with loss weights, through the model's own chat template."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from burnish.conversation import Conversation, Example, Message
from burnish.data.chat_templates import thinking_of
from burnish.data.learnt_answers import LearntText, Span, StopMarks, learnt_texts
from burnish.data.template_text import conversation_text
from burnish.errors import DataError, quantity
from burnish.runs.directory import Finding

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Rendered:
    """Tokens of a row, and the loss weight of predicting each; the first weight is 0.

    A conversation whose earlier turns the chat template writes differently when more turns follow
    has several of these, one per learnt answer, with the same id; `branch` counts them.
    """

    id: str
    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    branch: int = 0


@dataclass(frozen=True, slots=True)
class _Document:
    """The special tokens around a document."""

    head: list[int]
    tail: list[int]

    @classmethod
    def of(cls, tokenizer: Any) -> "_Document":
        # A tokenizer may have a start token that it never adds: SmolLM2's opens chat turns.
        start = tokenizer("")["input_ids"][:1]
        return cls(
            head=start if start == [tokenizer.bos_token_id] else [],
            tail=[] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id],
        )

    def rendered(self, example: Example, tokens: Sequence[int]) -> Rendered:
        whole = [*self.head, *tokens, *self.tail]
        weights = [0.0] + [example.messages[0].weight] * (len(whole) - 1)
        return Rendered(example.id, tuple(whole), tuple(weights[: len(whole)]))


def render(example: Example, tokenizer: Any, *, max_length: int | None = None) -> Rendered:
    """Renders one row with all of its learnt answers in one text; see `render_all`.

    Raises:
        DataError: the row is longer than `max_length`, its answers cannot be located in the
            rendered text, or they have a text each (`render_branches`).
    """
    rows = render_branches(example, tokenizer)
    if len(rows) > 1:
        raise DataError(
            f"the chat template renders earlier turns of {_where(example)} differently when more "
            f"turns follow, so its {len(rows)} answers are rows of their own",
            "render them with render_branches",
            code="several_branches",
            source=_where(example),
            count=len(rows),
        )
    (rendered,) = rows
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


def render_branches(example: Example, tokenizer: Any) -> list[Rendered]:
    """Renders one row: one text, or one per learnt answer where the template changes earlier turns.

    Raises:
        DataError: its answers cannot be located in the rendered text.
    """
    return next(_render([example], tokenizer))


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
            f"no token of the {quantity(len(examples), 'row')} would be trained on",
            "use rows with an assistant turn whose weight is above 0, and with at most "
            f"{limit} tokens",
            code="nothing_learnt",
            count=len(examples),
            limit=limit,
        )
    return kept, finding


def drop_longer(
    examples: Sequence[Example], rows: Iterable[Sequence[Rendered]], limit: int
) -> tuple[list[Rendered], Finding | None]:
    """The rows of at most `limit` tokens, and a finding about the longer ones.

    A conversation is left out as a whole if one of its branches is too long.
    """
    kept: list[Rendered] = []
    longer: list[str] = []
    longest = 0
    for example, branches in zip(examples, rows, strict=True):
        length = max(len(row.tokens) for row in branches)
        longest = max(longest, length)
        if length > limit:
            longer.append(example.source)
        else:
            kept += branches
    if not longer:
        return kept, None
    were = quantity(len(longer), "row was", "rows were")
    message = f"{were} left out for having more than {limit} tokens (the longest has {longest})"
    return kept, Finding("too long", "warning", message, len(longer), tuple(longer[:5]))


def template_stop_token(tokenizer: Any) -> int | None:
    """The token that the chat template writes after an answer; None if it writes none, or cannot
    render a plain question and answer."""
    example = Example("", (Message("user", "Hello?"), Message("assistant", "Hello.")))
    try:
        ((rendered,),) = _render([example], tokenizer)
    except DataError:
        return None
    learnt = [
        token for token, weight in zip(rendered.tokens, rendered.weights, strict=True) if weight
    ]
    last = str(tokenizer.decode(learnt[-1:])).strip()
    is_content = bool(last) and example.messages[-1].content.endswith(last)
    return learnt[-1] if learnt and not is_content else None


def render_prompt(conversation: Conversation, tokenizer: Any, *, thinks: bool = True) -> list[int]:
    """Tokens of the prompt, up to where the assistant's answer begins; a document is continued.

    `thinks` is False where what follows is an answer without a thought, also for a model that is
    otherwise asked to think.
    """
    if conversation and conversation[0].role == "document":
        return list(tokenizer(conversation[0].content, verbose=False)["input_ids"])
    thinking = thinking_of(tokenizer)
    thinking = thinking if thinks or thinking is None else False
    text = conversation_text(conversation, tokenizer, asks=True, thinking=thinking)
    # Not verbose: prompts that are too long are left out and reported elsewhere.
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def render_prompts(
    examples: Sequence[Example], tokenizer: Any, max_length: int | None, answer: int
) -> tuple[list[Rendered], Finding | None]:
    """Prompts that leave room for `answer` tokens; their last token has the weight 1."""
    limit = (max_length or int(min(tokenizer.model_max_length, 1 << 30))) - answer
    prompts = ((e.id, render_prompt(e.prompt, tokenizer)) for e in examples)
    rows = ([Rendered(n, tuple(p), (*[0.0] * (len(p) - 1), 1.0))] for n, p in prompts)
    kept, finding = drop_longer(examples, rows, limit)
    if not kept:
        seen = f"every prompt has more than {limit} tokens ({quantity(len(examples), 'prompt')})"
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
    kept, finding = drop_longer(examples, ([row] for row in longer), limit)
    if not kept:
        seen = f"every row has more than {limit} tokens with its answers"
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
    lost, marks = [], StopMarks.of(tokenizer)
    for example in examples:
        thoughts = [turn.reasoning.strip() for turn in example.messages if turn.learnt]
        if any(thoughts):
            texts = "\n".join(one.text for one in learnt_texts(example, tokenizer, marks))
            if not is_shown or any(thought not in texts for thought in thoughts):
                lost.append(example.source)
    rows = quantity(len(lost), "row")
    message = f"the reasoning of {rows} is not trained on: the model's chat template omits it"
    remedy = "use a model whose template includes reasoning, or write the reasoning in the content"
    where = tuple(lost[:5])
    return [Finding("reasoning", "warning", message, len(lost), where, remedy)] if lost else []


def with_answer(example: Example, answer: str) -> Example:
    """The row with this answer, the only turn that is trained on."""
    prompt = tuple(replace(turn, weight=0.0) for turn in example.prompt)
    return replace(example, messages=(*prompt, Message("assistant", answer)))


def _render(examples: Iterable[Example], tokenizer: Any) -> Iterator[list[Rendered]]:
    rows = iter(examples)
    marks, document = StopMarks.of(tokenizer), _Document.of(tokenizer)
    while chunk := list(islice(rows, _AT_ONCE)):
        texts = [_texts(example, tokenizer, marks) for example in chunk]
        encoded = tokenizer(
            [one.text for own in texts for one in own],
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        tokenized = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for example, own in zip(chunk, texts, strict=True):
            parts = [next(tokenized) for _ in own]
            if example.messages[0].role == "document":
                yield [document.rendered(example, parts[0][0])]
            else:
                yield [
                    _rendered(example.id, branch, one, part, tokenizer)
                    for branch, (one, part) in enumerate(zip(own, parts, strict=True))
                ]


def _texts(example: Example, tokenizer: Any, marks: StopMarks) -> list[LearntText]:
    if example.messages[0].role == "document":
        return [LearntText(example.messages[0].content, ())]
    return learnt_texts(example, tokenizer, marks)


def _rendered(
    name: str, branch: int, text: LearntText, part: tuple[Any, Any], tokenizer: Any
) -> Rendered:
    """The tokens of a text. Those of a branch's prompt are the ones that the model will see."""
    tokens, places = part
    if text.prompt:
        prompt, answer = text.text[: text.prompt], text.text[text.prompt :]
        before = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        if list(tokens[: len(before)]) != list(before):
            own = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
            weights = [0.0] * len(before) + [text.spans[0].weight] * len(own)
            return Rendered(name, (*before, *own), tuple(weights), branch)
    weights_T = _weights(text.text, places, text.spans)
    return Rendered(name, tuple(tokens), weights_T, branch)


def _where(example: Example) -> str:
    return example.source or example.id


def _weights(
    text: str, places: Sequence[tuple[int, int]], spans: Sequence[Span]
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
