"""Predicts a candidate's result on CERT from PROBE and from its distance to the base model.

PROBE's drop has an error of more than a point, so it often ranks attempts that forgot little in the
wrong order. The distance from the base (KL on the openings) has hardly any error, and within
one search the drop is roughly proportional to it. If the measured candidates show how many points
one nat costs, that gives a prior for each drop, which PROBE's drop updates. The forecast decides
what is tested on CERT and in which order, never what passes there.
"""

import math
from collections.abc import Collection, Sequence
from statistics import NormalDist

from burnish.certification.budgets import Budgets
from burnish.runs.candidates import Candidate

_Z = 1.96
# PROBE is 30% of the suite and CERT 70%, so a standard error on CERT is this many times as large.
_ON_CERT = math.sqrt(3 / 7)
# A candidate is tested if its bound on CERT is expected to be within budget: one-sided 96%.
_BOUND = 1.75
# The bound on text loss is above the estimate; it fits if the estimate uses at most this share.
_TEXT_BOUND = 0.9
# The points per nat are used if their relative standard error is at most this.
_KNOWN = 0.6
_ROUNDS = 20


class Forecast:
    """The expected results on CERT for the candidates of one search.

    Args:
        candidates: all candidates so far, measured in full or only cheaply.
        budgets: the budgets that they have to stay within.
    """

    def __init__(self, candidates: Collection[Candidate], budgets: Budgets) -> None:
        self.budgets = budgets
        self._seen = {
            one.key: (one.drop, _error(one), one.kl)
            for one in candidates
            if one.drop is not None and one.kl and _error(one)
        }
        self._rates: dict[str, float | None] = {}

    def expected_drop(self, candidate: Candidate) -> tuple[float, float]:
        """Expected drop of the suite mean in points, and its standard error.

        The posterior of a normal distribution with a normal prior. The prior mean is the KL times
        the points per nat of the other candidates; its standard deviation equals that mean.
        """
        assert candidate.drop is not None
        drop, error = candidate.drop, _error(candidate)
        rate = self._points_per_nat(candidate)
        if rate is None or not candidate.kl or not error:
            return drop, error
        prior = rate * candidate.kl
        weight = prior**2 / (prior**2 + error**2)
        return prior + weight * (drop - prior), math.sqrt(weight) * error

    def upper_drop(self, candidate: Candidate) -> float:
        """Expected upper bound of the suite's drop on CERT, in points; needs a drop on PROBE."""
        return self.expected_drop(candidate)[0] + _BOUND * _ON_CERT * _error(candidate)

    def within_budget(self, candidate: Candidate) -> bool:
        """Whether its bounds on CERT are expected to be within the budgets, as far as measured."""
        fits = candidate.drop is None or self.upper_drop(candidate) < self.budgets.general
        return fits and self._text_loss_fits(candidate)

    def pass_probability(self, candidate: Candidate) -> float:
        """Probability of passing on CERT, 0 to 1.

        The bound on CERT differs from the expected one by the errors of the expected drop and of
        the drop that will be measured.
        """
        if not self._text_loss_fits(candidate):
            return 0.0
        room = self.budgets.general - self.upper_drop(candidate)
        apart = math.hypot(self.expected_drop(candidate)[1], _ON_CERT * _error(candidate))
        return NormalDist().cdf(room / apart) if apart else float(room > 0)

    def expected_gain(self, order: Sequence[Candidate]) -> float:
        """Expected certified gain of an order of testing within one attempt, in points.

        All pass with the smallest of their probabilities, not the product: they share an adapter.
        """
        expected = before = 0.0
        probability = 1.0
        for candidate in order:
            probability = min(probability, self.pass_probability(candidate))
            expected += probability * ((candidate.worth or 0.0) - before)
            before = candidate.worth or 0.0
        return expected

    def _text_loss_fits(self, candidate: Candidate) -> bool:
        allowed, rise = self.budgets.text_loss, candidate.text_loss
        return allowed is None or rise is None or rise <= _TEXT_BOUND * allowed

    def _points_per_nat(self, candidate: Candidate) -> float | None:
        """Points lost per nat of KL among the other candidates; None if they do not show it."""
        if candidate.key not in self._rates:
            others = [row for key, row in self._seen.items() if key != candidate.key]
            self._rates[candidate.key] = _rate(others)
        return self._rates[candidate.key]


def _rate(seen: Sequence[tuple[float, float, float]]) -> float | None:
    """The weighted mean of drop / KL; None if its standard error is too large.

    The weights combine PROBE's error and the standard deviation of the prior, which equals the mean
    itself: solved by fixed-point iteration.

    Args:
        seen: drop, its standard error, and KL of each candidate.
    """
    if not seen:
        return None
    rate, weights = 0.0, [1.0]
    for _ in range(_ROUNDS):
        weights = [1 / ((error / kl) ** 2 + rate**2) for _, error, kl in seen]
        total = sum(w * drop / kl for w, (drop, _, kl) in zip(weights, seen, strict=True))
        rate = max(0.0, total / sum(weights))
    return rate if 0 < 1 / math.sqrt(sum(weights)) <= _KNOWN * rate else None


def _error(candidate: Candidate) -> float:
    """Standard error of the drop on PROBE, in points."""
    low, high = candidate.drop_range or (0.0, 0.0)
    return (high - low) / (2 * _Z)
