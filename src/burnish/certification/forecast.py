"""What CERT is expected to say of a candidate: from PROBE, and from how far it is from the base.

PROBE's drop has an error of more than a point, so of several attempts that forgot little it often
puts the wrong one first. The distance from the base (KL on the openings) has next to none: within
one search the drop is about so many points a nat. Where the judged candidates show how many, that
is the prior of each, and PROBE's drop is what was seen of it. It decides what is asked on CERT and
in which order, never what passes there.
"""

import math
from collections.abc import Collection, Sequence
from statistics import NormalDist

from burnish.certification.budgets import Budgets
from burnish.runs.candidates import Candidate

_Z = 1.96
# PROBE is 30 % of the suite and CERT 70 %: a standard error there is this many times as large.
_ON_CERT = math.sqrt(3 / 7)
# A candidate is worth testing if its bound on CERT is expected to lie inside: one-sided 96 %.
_BOUND = 1.75
# The bound on text loss lies above the estimate, by less than this share of the budget leaves.
_TEXT_BOUND = 0.9
# The points a nat are used where their standard error is at most this share of them.
_KNOWN = 0.6
_ROUNDS = 20


class Forecast:
    """The expectations of one search.

    Args:
        candidates: all that it has found, judged on PROBE or only screened.
        budgets: what they have to keep.
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
        """Points that the suite's mean is expected to have fallen, and their standard error.

        Normal with a normal prior, whose mean is the KL times the points a nat of the other
        candidates and whose deviation is as large as that mean.
        """
        assert candidate.drop is not None
        drop, error = candidate.drop, _error(candidate)
        rate = self._points_per_nat(candidate)
        if rate is None or not candidate.kl or not error:
            return drop, error
        before = rate * candidate.kl
        seen = before**2 / (before**2 + error**2)
        return before + seen * (drop - before), math.sqrt(seen) * error

    def upper_drop(self, candidate: Candidate) -> float:
        """The bound on the suite's drop that is expected on CERT, in points; PROBE was asked."""
        return self.expected_drop(candidate)[0] + _BOUND * _ON_CERT * _error(candidate)

    def within_budget(self, candidate: Candidate) -> bool:
        """Whether its bounds on CERT are expected to lie inside the budgets, as far as measured."""
        kept = candidate.drop is None or self.upper_drop(candidate) < self.budgets.general
        return kept and self._text_loss_fits(candidate)

    def pass_probability(self, candidate: Candidate) -> float:
        """Of passing on CERT; 0 to 1.

        The bound there differs from the expected one by the errors of the drop that is expected
        and of the one that will be measured.
        """
        if not self._text_loss_fits(candidate):
            return 0.0
        room = self.budgets.general - self.upper_drop(candidate)
        apart = math.hypot(self.expected_drop(candidate)[1], _ON_CERT * _error(candidate))
        return NormalDist().cdf(room / apart) if apart else float(room > 0)

    def expected_gain(self, order: Sequence[Candidate]) -> float:
        """The gain that is expected to be certified along an order of one attempt, in points.

        All pass with the least of their chances, not with the product: they are one adapter.
        """
        found = before = 0.0
        far = 1.0
        for candidate in order:
            far = min(far, self.pass_probability(candidate))
            found += far * ((candidate.worth or 0.0) - before)
            before = candidate.worth or 0.0
        return found

    def _text_loss_fits(self, candidate: Candidate) -> bool:
        allowed, rise = self.budgets.text_loss, candidate.text_loss
        return allowed is None or rise is None or rise <= _TEXT_BOUND * allowed

    def _points_per_nat(self, candidate: Candidate) -> float | None:
        """Of the other candidates; None where they do not show it."""
        if candidate.key not in self._rates:
            others = [row for key, row in self._seen.items() if key != candidate.key]
            self._rates[candidate.key] = _rate(others)
        return self._rates[candidate.key]


def _rate(seen: Sequence[tuple[float, float, float]]) -> float | None:
    """The mean of drop / KL; None where its standard error is too large to say.

    Each is weighted by PROBE's error there and by the deviation that the prior allows, which is
    the mean itself: found by fixed-point iteration.

    Args:
        seen: drop, its standard error, and KL.
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
    """Standard error of the drop on PROBE."""
    low, high = candidate.drop_range or (0.0, 0.0)
    return (high - low) / (2 * _Z)
