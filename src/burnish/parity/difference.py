"""What one voice says to a prompt that the reference answered, and how far that is from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from burnish.parity.record import Difference, Said


@dataclass(frozen=True, slots=True)
class Heard:
    """One voice on one prompt.

    Attributes:
        prompt: token ids of the prompt as the voice rendered it; None where it does not tell them.
        length: how many they are, where it tells that.
        answer_at: the first place where its greedy answer leaves the reference's; None: nowhere.
        logprobs: of the reference's answer tokens in turn; None where one is not known.
    """

    prompt: tuple[int, ...] | None
    length: int | None
    answer_at: int | None
    logprobs: tuple[float | None, ...]


def difference(said: Said, heard: Heard) -> Difference:
    """The voice against the reference.

    A log-probability that is no number counts as a greedy token of its own.
    """
    equal, prompt_at = _prompt(said, heard)
    known = [(a, b) for a, b in zip(said.logprobs, heard.logprobs, strict=True) if b is not None]
    apart = [abs(a - b) for a, b in known if math.isfinite(b)]
    at = heard.answer_at
    broken = next((n for n, b in enumerate(heard.logprobs) if _is_broken(b)), None)
    at = broken if at is None else at
    measured = at is not None and broken is None and at < len(said.leads)
    return Difference(
        said.id,
        equal,
        prompt_at,
        at,
        said.leads[at] if at is not None and measured else None,
        len(apart),
        max(apart, default=None),
    )


def _prompt(said: Said, heard: Heard) -> tuple[bool | None, int | None]:
    """Whether the tokens are the same, and the first that is not; a count alone may show that."""
    if heard.prompt is None:
        return (False if heard.length not in (None, len(said.prompt)) else None), None
    at = first_difference(said.prompt, heard.prompt)
    return at is None, at


def first_difference(one: Sequence[object], other: Sequence[object]) -> int | None:
    """The first place where two sequences differ, the end of one included; None: nowhere."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))


def _is_broken(logprob: float | None) -> bool:
    return logprob is not None and not math.isfinite(logprob)
