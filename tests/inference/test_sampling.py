"""Drawing: hand-worked changes of logits, and frequencies that are those of the model."""

import math

import pytest
import torch

from burnish.inference.sampling import Sampler, logprob_reports, sample_tokens, with_logprob
from burnish.inference.types import SampledToken, SamplingSettings


def test_penalties_and_bias_by_hand() -> None:
    """Token 1 is there twice, token 3 once: 2 f + p and f + p are taken off."""
    sampling = SamplingSettings(
        9, frequency_penalty=0.5, presence_penalty=0.25, bias={0: 2.0, 3: -1.0}
    )
    sampler = Sampler(sampling)
    for token in (1, 3, 1):
        sampler.accept(token)
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0])
    sampler.adjust_logits(logits)
    assert logits.tolist() == [2.0, 1.0 - 1.25, 2.0, 3.0 - 0.75 - 1.0]


def test_nothing_to_change_changes_nothing() -> None:
    sampler = Sampler(SamplingSettings(9))
    sampler.accept(1)
    logits = torch.tensor([0.5, 1.5])
    sampler.adjust_logits(logits)
    assert logits.tolist() == [0.5, 1.5]


def test_frequencies_are_the_probabilities() -> None:
    """At temperature 2 probabilities 0.9, 0.1 become 3/4, 1/4: square roots, made to sum to 1."""
    logits = torch.tensor([0.9, 0.1]).log()
    sampler = Sampler(SamplingSettings(1, temperature=2.0, seed=1))
    ones = sum(sample_tokens(logits.repeat(50, 1), [sampler] * 50).count(1) for _ in range(80))
    assert ones / 4000 == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


@pytest.mark.parametrize("temperature", [1e-20, 1e-30, 1e-37, 1e-45, 5e-324])
def test_hardly_any_temperature_is_none(temperature: float) -> None:
    """The likeliest token, though such numbers are 0 to float32, or make others infinite."""
    logits = torch.tensor([[0.5, 300.0, -torch.inf, 2.0]])
    samplers = [
        Sampler(SamplingSettings(1, temperature=temperature, top_p=p, seed=1)) for p in (1.0, 0.5)
    ]
    assert sample_tokens(logits.repeat(2, 1), samplers) == [1, 1]


@pytest.mark.parametrize(
    ("top_p", "left"), [(0.0, {2}), (0.5, {2}), (0.51, {0, 2}), (1.0, {0, 1, 2})]
)
def test_the_nucleus_is_the_smallest_that_reaches_top_p(top_p: float, left: set[int]) -> None:
    logits = torch.tensor([0.3, 0.2, 0.5]).log()
    sampler = Sampler(SamplingSettings(1, top_p=top_p, seed=3))
    drawn = sample_tokens(logits.repeat(300, 1), [sampler] * 300)
    assert set(drawn) == left


def test_a_nucleus_wider_than_expected() -> None:
    """Of 4096 equal tokens half are more than are looked at first."""
    sampler = Sampler(SamplingSettings(1, top_p=0.5, seed=3))
    drawn = sample_tokens(torch.zeros(2000, 4096), [sampler] * 2000)
    assert 1024 < len(set(drawn)) <= 2048


def test_rows_of_all_kinds_in_one_batch() -> None:
    """Each draws what it draws alone."""
    draws = [
        SamplingSettings(1, temperature=0.0),
        SamplingSettings(1, temperature=0.7, seed=1),
        SamplingSettings(1, temperature=1.5, top_p=0.8, seed=2),
        SamplingSettings(1, temperature=1.0, seed=3),
    ]
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(0)) * 3
    together = sample_tokens(logits, [Sampler(sampling) for sampling in draws])
    alone = [
        sample_tokens(row[None], [Sampler(sampling)])[0]
        for row, sampling in zip(logits, draws, strict=True)
    ]
    assert together == alone
    assert together[0] == int(logits[0].argmax())


def test_what_is_told_comes_before_any_change() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]).log()
    reports = logprob_reports(logits, [None, 2])
    logits += 5
    assert with_logprob(2, reports[0]) == SampledToken(2)
    drawn = with_logprob(0, reports[1])
    assert drawn.logprob == pytest.approx(math.log(0.2))
    assert [token for token, _ in drawn.top] == [2, 1]
    assert [value for _, value in drawn.top] == pytest.approx([math.log(0.5), math.log(0.3)])
