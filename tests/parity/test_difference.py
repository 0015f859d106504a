"""A form against the reference, worked by hand: rounding, other answers, missing values."""

import math
from typing import Any

import pytest

from burnish.parity.difference import ProbeResult, difference
from burnish.parity.endpoint import _Answer
from burnish.parity.record import Comparison, Parity, Reference, ReferenceAnswer

SAID = ReferenceAnswer("a", (("user", "hi"),), (1, 2, 3), (7, 8), (-0.5, -1.0), (3.0, 0.001))
# "é!" and a stop token, the first character in two halves.
WANTED = [(10, b"\xc3"), (11, b"\xa9"), (12, b"!"), (2, b"<|im_end|>")]


def probe(**changes: Any) -> ProbeResult:
    values: dict[str, Any] = {
        "prompt": (1, 2, 3), "length": 3, "answer_differs_at": None, "logprobs": (-0.5, -1.0)
    }  # fmt: skip
    return ProbeResult(**values | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"logprobs": (-0.501, -1.0)}, None),
        ({"logprobs": (-0.5, None)}, None),
        ({"logprobs": (-0.5, -1.2)}, "differs by 0.2 nats (tolerance 0.01)"),
        ({"answer_differs_at": 1}, None),  # the reference hardly preferred its own token
        ({"answer_differs_at": 0}, "the answer to a differs from token 1 on"),
        ({"answer_differs_at": 2}, "the answer to a differs from token 3 on"),  # it goes on
        ({"logprobs": (-0.5, math.nan)}, "the answer to a differs from token 2 on"),
        ({"prompt": (1, 2, 4)}, "the rendered prompt a has different tokens, starting at token 3"),
        ({"prompt": (1, 2)}, "the rendered prompt a has different tokens, starting at token 3"),
        ({"prompt": None, "length": 4}, "the rendered prompt a has different tokens"),
        ({"prompt": None}, None),
        ({"prompt": None, "length": None}, None),
    ],
)
def test_what_is_rounding_and_what_is_not(changes: dict[str, Any], reason: str | None) -> None:
    found = difference(SAID, probe(**changes)).reason(0.01)
    assert found == reason or (reason and found and found.endswith(reason))


def test_what_is_not_told_is_not_made_up() -> None:
    found = difference(SAID, probe(prompt=None, logprobs=(None, None)))
    assert (found.prompt_equal, found.compared, found.largest) == (None, 0, None)


def test_answers_that_rounding_changed_are_counted() -> None:
    """They agree, and do not say the same."""
    same, other = difference(SAID, probe()), difference(SAID, probe(answer_differs_at=1))
    asked = (
        Comparison("reloaded", "", 0.01, (same, same)),
        Comparison("gguf", "a.gguf", 0.01, (same, other)),
    )
    reference = Reference("memory", "abc", "float32", (SAID, SAID))
    said = Parity(reference, asked).sentence
    assert said.startswith(
        "The model in memory, the reloaded weights and the GGUF file a.gguf agree"
    )
    assert (
        "agree on 2 prompts; 1 of 2 answers of the GGUF file a.gguf differ within rounding; "
        in said
    )
    assert "give the same 2 answers" in Parity(reference, asked[:1]).sentence


def told(*tokens: Any, end: str = "stop") -> dict[str, Any]:
    content = [
        {"token": text.decode(errors="replace"), "bytes": list(text), "logprob": -float(place)}
        | more
        for place, (text, more) in enumerate(tokens, 1)
    ]
    return {"logprobs": {"content": content}, "finish_reason": end}


@pytest.mark.parametrize(
    ("choice", "at", "logprobs"),
    [
        (told((b"\xc3", {}), (b"\xa9", {}), (b"!", {})), None, [-1, -2, -3, None]),
        (told((b"\xc3\xa9", {}), (b"!", {})), None, [None, -1, -2, None]),  # halves as one
        (told((b"\xc3\xa9", {}), (b"!", {}), (b"", {"id": 2})), None, [None, -1, -2, -3]),
        (told((b"\xc3\xa9", {}), (b"!", {}), end="length"), 3, [None, -1, -2, None]),
        (told((b"\xc3\xa9", {})), 2, [None, -1, None, None]),
        (told((b"\xc3", {}), (b"\xa8", {}), (b"!", {})), 1, [-1, None, None, None]),
        (told((b"?", {"top_logprobs": [{"token": "\xc3", "bytes": [0xC3], "logprob": -9}]})),
         0, [-9, None, None, None]),
        (told((b"\xc3\xa9", {}), (b"!", {}), (b"<|im_end|>", {}), (b"!", {}), end="length"),
         4, [None, -1, -2, -3]),
        ({"message": {"content": "é!"}, "finish_reason": "stop"}, None, [None] * 4),
        ({"message": {"content": "é?"}, "finish_reason": "stop"}, 2, [None] * 4),
    ],
)  # fmt: skip
def test_a_reply_beside_the_answer(
    choice: dict[str, Any], at: int | None, logprobs: list[float | None]
) -> None:
    found = _Answer(WANTED, choice)
    assert found.at == at
    assert found.logprobs == logprobs


def test_half_a_character_at_the_end_of_the_room_is_not_another_answer() -> None:
    assert _Answer(WANTED[2:3] + WANTED[:1], told((b"!", {}), end="length")).at is None
