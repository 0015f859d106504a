"""Tokenizes contexts with their choices, and splits texts into windows."""

from typing import Any

from burnish.conversation import Conversation
from burnish.data.render import render_prompt
from burnish.errors import ModelError
from burnish.models.interface import Choice


def tokenize_choice(item: Choice, tokenizer: Any) -> tuple[list[int], list[list[int]]]:
    """The tokens of the context, and the tokens of each choice.

    Raises:
        ModelError: the context or a choice has no tokens.
    """
    context = _context(item.context, tokenizer)
    choices = [_choice(item.context, context, choice, tokenizer) for choice in item.choices]
    for choice, tokens in zip(item.choices, choices, strict=True):
        if not tokens or not context:
            raise ModelError(
                f"the choice {choice!r} has no tokens",
                "use a choice with text",
                code="empty_choice",
                choice=choice,
            )
    return context, choices


def token_windows(text: str, tokenizer: Any, length: int) -> list[list[int]]:
    """Splits a text into windows of at most `length` tokens, each with the token before it."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    size = length - 1
    pieces = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    before = [_start(tokenizer)] + [piece[-1] for piece in pieces[:-1]]
    return [[first, *piece] for first, piece in zip(before, pieces, strict=False)]


def _context(context: Conversation | str, tokenizer: Any) -> list[int]:
    if not isinstance(context, str):
        return render_prompt(context, tokenizer, thinks=False)
    if not context:
        return [_start(tokenizer)]
    return list(tokenizer(context.rstrip(), add_special_tokens=True)["input_ids"])


def _choice(
    context: Conversation | str, before: list[int], choice: str, tokenizer: Any
) -> list[int]:
    """Encodes context and choice together, as lm-eval-harness does, and returns the choice."""
    if not isinstance(context, str) or not context:
        return list(tokenizer(choice, add_special_tokens=False)["input_ids"])
    whole = tokenizer(context + choice, add_special_tokens=True)["input_ids"]
    return list(whole[len(before) :])


def _start(tokenizer: Any) -> int:
    token = tokenizer.bos_token_id
    return int(token if token is not None else tokenizer.eos_token_id)
