"""How one form of the model responds to a reference prompt, and how far it differs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from burnish.parity.record import Difference, ReferenceAnswer


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The response of one form to one prompt.

    Attributes:
        prompt: token ids of the prompt as the form rendered it; None if it does not report them.
        length: number of prompt tokens; None if it does not report that.
        answer_differs_at: index of the first token at which its greedy answer differs from the
            reference's; None if it does not.
        logprobs: log-probability of each answer token of the reference; None where unknown.
    """

    prompt: tuple[int, ...] | None
    length: int | None
    answer_differs_at: int | None
    logprobs: tuple[float | None, ...]


def difference(reference: ReferenceAnswer, result: ProbeResult) -> Difference:
    """Compare a form with the reference on one prompt.

    A log-probability that is not a finite number counts as a different greedy token.
    """
    equal, prompt_differs_at = _prompt(reference, result)
    known = [
        (a, b) for a, b in zip(reference.logprobs, result.logprobs, strict=True) if b is not None
    ]
    apart = [abs(a - b) for a, b in known if math.isfinite(b)]
    at = result.answer_differs_at
    broken = next((n for n, b in enumerate(result.logprobs) if _is_broken(b)), None)
    at = broken if at is None else at
    measured = at is not None and broken is None and at < len(reference.leads)
    return Difference(
        reference.id,
        equal,
        prompt_differs_at,
        at,
        reference.leads[at] if at is not None and measured else None,
        len(apart),
        max(apart, default=None),
    )


def _prompt(reference: ReferenceAnswer, result: ProbeResult) -> tuple[bool | None, int | None]:
    """Whether the prompt tokens are equal, as far as known, and the first that differs."""
    if result.prompt is None:
        return (False if result.length not in (None, len(reference.prompt)) else None), None
    at = first_difference(reference.prompt, result.prompt)
    return at is None, at


def first_difference(one: Sequence[object], other: Sequence[object]) -> int | None:
    """The first index at which two sequences differ, or one ends; None if they are equal."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def _is_broken(logprob: float | None) -> bool:
    return logprob is not None and not math.isfinite(logprob)
