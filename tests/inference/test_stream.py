"""Text of answers in flight: nothing that is shown is ever taken back."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.inference.stream import Detokenizer, StopConditions
from burnish.inference.types import Piece, SampledToken, SamplingSettings

NO_END = StopConditions(frozenset(), 10_000)


def answered(
    tokenizer: Any, tokens: list[int], sampling: SamplingSettings, ends: StopConditions = NO_END
) -> list[Piece]:
    answer = Detokenizer(sampling, tokenizer, ends)
    pieces: list[Piece] = []
    for token in tokens:
        pieces.append(answer.add(SampledToken(token)))
        if pieces[-1].end:
            break
    return pieces


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def with_logprob(pieces: list[Piece]) -> list[int]:
    return [drawn.token for piece in pieces for drawn in piece.drawn]


def test_characters_of_several_bytes_come_whole(tiny_tokenizer: Any) -> None:
    text = "Zelt ⛺ für 東京 🏕️!"
    tokens = tiny_tokenizer(text)["input_ids"]
    assert len(tokens) > len(text), "every byte of these is a token of its own"
    pieces = answered(tiny_tokenizer, tokens, SamplingSettings(len(tokens)))
    assert text_of(pieces) == text
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert with_logprob(pieces) == tokens
    assert pieces[-1].end == "length"


def test_half_a_character_at_the_end_is_shown_as_such(tiny_tokenizer: Any) -> None:
    tokens = tiny_tokenizer("a⛺")["input_ids"][:-1]
    pieces = answered(tiny_tokenizer, tokens, SamplingSettings(len(tokens)))
    assert text_of(pieces) == tiny_tokenizer.decode(tokens) == "a\ufffd"
    assert with_logprob(pieces) == tokens


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at home\nuser:\nthanks", "at home"),
        ("user: thanks", ""),
        ("\nassistant: thanks", ""),
        ("the user: a\nusers\nuse", "the user: a\nusers\nuse"),
        ("use", "use"),
    ],
)
def test_an_answer_ends_where_another_speaks(tiny_tokenizer: Any, text: str, shown: str) -> None:
    """No part of the line is shown, nor one of its tokens; what only looks like it is."""
    speakers = tuple(f"\n{role}:" for role in ("system", "user", "assistant", "tool"))
    tokens = tiny_tokenizer(text)["input_ids"]
    pieces = answered(tiny_tokenizer, tokens, SamplingSettings(len(tokens), speakers=speakers))
    assert pieces[-1].end == ("length" if shown == text else "stop")
    assert text_of(pieces) == shown
    assert tiny_tokenizer.decode(with_logprob(pieces)) == shown


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_any_tokens_read_as_they_would_at_once(tiny_tokenizer: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, len(tiny_tokenizer), (40,), generator=generator).tolist()
    pieces = answered(tiny_tokenizer, tokens, SamplingSettings(len(tokens)))
    assert text_of(pieces) == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
    assert with_logprob(pieces) == tokens


@pytest.mark.parametrize(
    ("stops", "shown"),
    [
        (("is my",), "where "),  # over the border of two tokens
        (("parcel and",), "where is my "),
        (("when", "parcel"), "where is my "),  # the first in the text, not in the list
        (("comet",), "where is my parcel and when will it come"),  # it may come, and does not
        (("", "nowhere"), "where is my parcel and when will it come"),
    ],
)
def test_stop_strings(tiny_tokenizer: Any, stops: tuple[str, ...], shown: str) -> None:
    text = "where is my parcel and when will it come"
    tokens = tiny_tokenizer(text)["input_ids"]
    pieces = answered(tiny_tokenizer, tokens, SamplingSettings(len(tokens), stop=stops))
    assert text_of(pieces) == shown
    assert pieces[-1].end == ("length" if shown == text else "stop")
    behind = tiny_tokenizer.decode(with_logprob(pieces))
    assert behind.startswith(shown)
    assert shown == text or len(behind) < len(shown) + 12


def test_what_may_become_a_stop_string_waits(tiny_tokenizer: Any) -> None:
    letters = [tiny_tokenizer(letter)["input_ids"][0] for letter in "abxaby"]
    pieces = answered(tiny_tokenizer, letters, SamplingSettings(9, stop=("aby",)))
    assert [piece.text for piece in pieces] == ["", "", "abx", "", "", ""]
    assert [len(piece.drawn) for piece in pieces] == [0, 0, 3, 0, 0, 0]
    assert pieces[-1].end == "stop"


def test_a_stop_token_is_counted_and_not_told(tiny_tokenizer: Any) -> None:
    tokens = [*tiny_tokenizer("my tent")["input_ids"], tiny_tokenizer.eos_token_id]
    ends = StopConditions(frozenset({tiny_tokenizer.eos_token_id}), 100)
    answer = Detokenizer(SamplingSettings(50), tiny_tokenizer, ends)
    pieces = [answer.add(SampledToken(token)) for token in tokens]
    assert text_of(pieces) == "my tent"
    assert pieces[-1].end == "stop"
    assert with_logprob(pieces) == tokens[:-1]
    assert answer.count == len(tokens)


def test_the_context_ends_an_answer(tiny_tokenizer: Any) -> None:
    pieces = answered(
        tiny_tokenizer, [70] * 9, SamplingSettings(50), StopConditions(frozenset(), 4)
    )
    assert len(pieces) == 4
    assert pieces[-1].end == "length"
