"""From logits to the next tokens of a batch whose rows have different sampling settings.

Every answer draws from its own random numbers, one a token, so that its tokens depend on its seed
and not on what else is in the batch.

Shapes: B rows, V vocabulary, K alternatives.
"""

import random
from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from burnish.inference.types import SampledToken, SamplingSettings
from burnish.models.devices import tensor_on, upload

# Log-probabilities (V,) of one place, and the likeliest tokens there.
LogprobReport = tuple[Tensor, list[tuple[int, float]]]

# A nucleus is nearly always within so many tokens; sorting a whole vocabulary takes far longer, so
# only where it is not, more are looked at.
_NUCLEUS, _WIDER = 512, 8
# Below, logits divided by the temperature leave the range of float32.
_COLDEST = 1e-30


class Sampler:
    """Sampling settings of one answer, and its state: tokens so far, random numbers, grammar."""

    def __init__(self, sampling: SamplingSettings, stops: Collection[int] = ()) -> None:
        self.sampling, self.stops = sampling, stops
        # Without a seed, from the system's random numbers.
        self.random = random.Random(sampling.seed)
        self.counts: Counter[int] = Counter()
        self.grammar = sampling.grammar() if sampling.grammar is not None else None

    def adjust_logits(self, logits_V: Tensor) -> None:
        """Apply bias, penalties and the grammar to the logits, in place.

        With c(t) the times that token t is in the answer: `logit(t) + bias(t) - c(t) frequency -
        (c(t) > 0) presence`, as the API documents it.
        """
        change = dict(self.sampling.bias)
        if self.sampling.frequency_penalty or self.sampling.presence_penalty:
            for token, times in self.counts.items():
                penalty = self.sampling.frequency_penalty * times + self.sampling.presence_penalty
                change[token] = change.get(token, 0.0) - penalty
        if change:
            tokens = tensor_on(logits_V.device, list(change))
            logits_V[tokens] += tensor_on(logits_V.device, list(change.values()))
        if self.grammar is not None:
            self.grammar.mask(logits_V, self.stops)

    def accept(self, token: int) -> None:
        """Record that the token was sampled."""
        self.counts[token] += 1
        if self.grammar is not None:
            self.grammar.advance(token)


def logprob_reports(
    logits_B_V: Tensor, alternatives: Sequence[int | None]
) -> list[LogprobReport | None]:
    """Return the log-probabilities for rows that request alternatives, None for the others.

    To be called before the logits are shaped: what is told is what the model thinks.
    """
    wanted = [row for row, most in enumerate(alternatives) if most is not None]
    result: list[LogprobReport | None] = [None] * len(alternatives)
    if not wanted:
        return result
    logprobs_B_V = logits_B_V[wanted].log_softmax(-1)
    most = max(alternatives[row] or 0 for row in wanted)
    values_B_K, tokens_B_K = logprobs_B_V.topk(min(most, logprobs_B_V.shape[-1]), dim=-1)
    for place, row in enumerate(wanted):
        pairs = list(zip(tokens_B_K[place].tolist(), values_B_K[place].tolist(), strict=True))
        result[row] = (logprobs_B_V[place], pairs[: alternatives[row]])
    return result


def with_logprob(token: int, report: LogprobReport | None) -> SampledToken:
    """Return a token with its log-probability and alternatives."""
    if report is None:
        return SampledToken(token)
    logprobs_V, top = report
    return SampledToken(token, float(logprobs_V[token]), tuple(top))


def sample_tokens(logits_B_V: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Sample one token per row: the likeliest at temperature 0, else a random one."""
    tokens_B = logits_B_V.argmax(-1)
    sampled = [row for row, each in enumerate(samplers) if each.sampling.temperature > _COLDEST]
    if sampled:
        tokens_B[sampled] = _sample(logits_B_V[sampled], [samplers[row] for row in sampled])
    return [int(token) for token in tokens_B.tolist()]


def _sample(logits_B_V: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """By inversion: the token at which the running sum of probabilities passes a random number."""
    device = logits_B_V.device
    temperatures = [each.sampling.temperature for each in samplers]
    scaled_B_V = logits_B_V / tensor_on(device, temperatures)[:, None]
    probabilities_B_V = scaled_B_V.softmax(-1)
    narrow = [row for row, each in enumerate(samplers) if each.sampling.top_p < 1]
    if narrow:
        top_p = tensor_on(device, [samplers[row].sampling.top_p for row in narrow])
        probabilities_B_V[narrow] = _nucleus(probabilities_B_V[narrow], top_p)
    sums_B_V = probabilities_B_V.cumsum(-1, dtype=torch.float64)
    drawn = torch.tensor([each.random.random() for each in samplers], dtype=torch.float64)
    # Below the whole sum, so that a token of no probability is never passed to.
    points_B = upload(drawn, device)[:, None] * sums_B_V[:, -1:]
    return torch.searchsorted(sums_B_V, points_B, right=True)[:, 0].clamp(max=sums_B_V.shape[1] - 1)


def _nucleus(probabilities_B_V: Tensor, top_p_B: Tensor, size: int = _NUCLEUS) -> Tensor:
    """Only the likeliest tokens that together reach `top_p` (Holtzman et al. 2020, arXiv
    1904.09751, section 3.1); the others have probability 0."""
    size = min(size, probabilities_B_V.shape[-1])
    ordered, places = probabilities_B_V.topk(size, dim=-1)
    sums = ordered.cumsum(-1)
    ordered.masked_fill_(sums - ordered >= top_p_B[:, None], 0)
    ordered[:, 0] = probabilities_B_V.amax(-1)  # at top_p 0 the likeliest one is left
    narrowed = torch.zeros_like(probabilities_B_V).scatter_(-1, places, ordered)
    wide_B = sums[:, -1] < top_p_B
    if size < probabilities_B_V.shape[-1] and bool(wide_B.any()):
        narrowed[wide_B] = _nucleus(probabilities_B_V[wide_B], top_p_B[wide_B], size * _WIDER)
    return narrowed
