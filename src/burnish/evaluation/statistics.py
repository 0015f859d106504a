"""Intervals, tests and sample sizes for comparing a tuned model with its base on the same items.

Differences are tuned minus base, so a negative one is a loss; rates are fractions. Input that is
empty or out of range raises ValueError; no function returns 0 for it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, hypot, sqrt
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr

BoolArray = NDArray[np.bool_]
Scores = NDArray[np.float64]
IntArray = NDArray[np.intp]

_NORMAL = NormalDist()
# Number of resamples that have to lie in a tail.
_IN_A_TAIL = 25


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval [low, high] at `confidence`, e.g. 0.95."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Comparison:
    """Accuracies of two models on the same items, and their difference.

    `lower_bound` is one-sided: deciding by `lower_bound > -margin` errs with probability
    1 - confidence, where the low end of `interval`, which is for display, errs half as often.
    """

    base: float
    tuned: float
    delta: float
    interval: Interval
    lower_bound: float


@dataclass(frozen=True)
class Paired(Comparison):
    """The outcomes of `n` items behind a comparison."""

    n: int
    lost: int  # base right, tuned wrong
    gained: int  # base wrong, tuned right
    p: float  # two-sided, McNemar mid-p


def paired_outcomes(base: BoolArray, tuned: BoolArray, *, confidence: float = 0.95) -> Paired:
    """Compare two models' outcomes, both [items], True where the answer is right."""
    if base.dtype != np.bool_ or tuned.dtype != np.bool_:
        raise ValueError(f"outcomes are {base.dtype} and {tuned.dtype}; both must be bool")
    _check_shapes(base.shape, tuned.shape)
    lost, gained, n = int(np.sum(base & ~tuned)), int(np.sum(~base & tuned)), base.size
    return Paired(
        n=n,
        base=float(base.mean()),
        tuned=float(tuned.mean()),
        delta=(gained - lost) / n,
        lost=lost,
        gained=gained,
        interval=tango(lost, gained, n, confidence),
        lower_bound=tango(lost, gained, n, 2 * confidence - 1).low,
        p=mcnemar_midp(lost, gained),
    )


def tango(lost: int, gained: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of (gained - lost) / n, the difference of paired proportions.

    Tango 1998, Statistics in Medicine 17:891-908, eqs 24-26: the differences that the score test
    does not reject. It stays inside [-1, 1] and has width even when no item changed.
    """
    _check_counts(lost, gained, n)
    z = _two_sided_z(confidence)
    # Swapping the models negates the difference, so the high end is a low end too.
    return Interval(_tango_low(lost, gained, n, z), -_tango_low(gained, lost, n, z), confidence)


def mcnemar_midp(lost: int, gained: int) -> float:
    """Two-sided McNemar mid-p value that losses and gains are equally likely.

    Fagerland, Lydersen, Laake 2013, BMC Medical Research Methodology 13:91: the exact conditional
    p less half the probability of the observed split, doubled. No changed item gives 1.
    """
    fewer, discordant = min(lost, gained), lost + gained
    _check_counts(lost, gained, max(discordant, 1))
    if discordant == 0:
        return 1.0
    at_most = float(bdtr(fewer, discordant, 0.5))
    below = float(bdtr(fewer - 1, discordant, 0.5)) if fewer else 0.0
    if lost == gained:  # both tails contain the observed split, whose probability counts once
        return 1 - (at_most - below) / 2
    return at_most + below


def paired_bootstrap(
    base: Scores,
    tuned: Scores,
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int | None = None,
) -> Interval:
    """BCa interval of the mean difference of graded scores, both [items].

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 14.3. At least two items;
    equal differences throughout give an interval of no width.
    """
    _check_shapes(base.shape, tuned.shape)
    differences = np.asarray(tuned, dtype=np.float64) - base
    if not np.isfinite(differences).all():
        raise ValueError(f"{np.sum(~np.isfinite(differences))} score differences are not finite")
    draws = _resampled_items(differences.size, resamples or _enough(10_000, confidence), seed)
    means = np.array([differences[items].mean() for items in draws])
    low, high = np.quantile(means, _bca_levels(means, differences, confidence))
    return Interval(float(low), float(high), confidence)


def paired_bootstrap_metric(
    base: Callable[[IntArray], float],
    tuned: Callable[[IntArray], float],
    n: int,
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int | None = None,
) -> Interval:
    """Percentile interval of a corpus metric's difference, such as that of two macro-F1 values.

    Koehn 2004, EMNLP: both models are scored on the same resampled items. `base` and `tuned` score
    their own model on the items at the given indices [n], which repeat. At least two items.
    """
    draws = _resampled_items(n, resamples or _enough(1_000, confidence), seed)
    differences = np.array([tuned(items) - base(items) for items in draws])
    if not np.isfinite(differences).all():
        raise ValueError(f"the metric's difference was {differences.sum()} on resampled items")
    low, high = np.quantile(differences, [_tail(confidence), 1 - _tail(confidence)])
    return Interval(float(low), float(high), confidence)


def _enough(usual: int, confidence: float) -> int:
    """Resamples such that about 25 lie in a tail, which is small for later looks."""
    return max(usual, math.ceil(_IN_A_TAIL / _tail(confidence)))


def macro_paired(
    sections: Mapping[str, tuple[BoolArray, BoolArray]], confidence: float = 0.95
) -> Comparison:
    """Compare the unweighted means of section accuracies.

    Each section is (base, tuned), both [items], and counts the same however many items it has.
    The interval recovers each section's variance from its Tango interval, the sections being
    independent (MOVER: Zou & Donner 2008, Statistics in Medicine 27:1693-1702; for a weighted sum
    of k terms: Zou, Huang, Zhang 2009, Computational Statistics & Data Analysis 53:1080-1085).
    """
    if not sections:
        raise ValueError("0 sections: a mean over sections needs at least one")
    pairs = [paired_outcomes(*outcomes, confidence=confidence) for outcomes in sections.values()]
    delta = fmean(pair.delta for pair in pairs)
    below = hypot(*(pair.delta - pair.interval.low for pair in pairs)) / len(pairs)
    above = hypot(*(pair.interval.high - pair.delta for pair in pairs)) / len(pairs)
    bound = delta - hypot(*(pair.delta - pair.lower_bound for pair in pairs)) / len(pairs)
    base, tuned = fmean(pair.base for pair in pairs), fmean(pair.tuned for pair in pairs)
    return Comparison(base, tuned, delta, Interval(delta - below, delta + above, confidence), bound)


def items_needed(
    delta: float, discordance: float, margin: float, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Paired items with which Tango's one-sided bound exceeds -margin with probability `power`.

    Normal approximation with the null variance at the constrained estimate: Nam 1997, Biometrics
    53:1422-1430. `delta` is the true difference, `discordance` the true share of items on which
    the models differ. None when delta <= -margin: then no number of items is enough.
    """
    spread = _spread(delta, discordance, margin, power, alpha)
    if delta <= -margin:
        return None
    return max(1, ceil((spread / (delta + margin)) ** 2))


def smallest_margin(
    n: int, discordance: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """Smallest margin that `n` items can rule out when the models are truly equal.

    The inverse of `items_needed` at delta 0. None when `n` is too small for any margin below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a margin needs at least one item")

    def surplus(margin: float) -> float:
        return sqrt(n) * margin - _spread(0.0, discordance, margin, power, alpha)

    if surplus(1.0) <= 0:
        return None
    # The null variance is at least margin * (1 - margin), so the root is above this low end.
    z = _NORMAL.inv_cdf(1 - alpha)
    return float(brentq(surplus, z * z / (n + z * z) / 2, 1.0))


@lru_cache(maxsize=65_536)  # searches use the same few counts repeatedly
def _tango_low(lost: int, gained: int, n: int, z: float) -> float:
    """The difference at which the score statistic T equals z."""
    if lost == n:
        return -1.0
    # T is infinite at -1; T / sqrt(1 + T^2) falls with T and stays finite, as brentq needs.
    target = z / hypot(1, z)

    def excess(delta: float) -> float:
        distance = gained - lost - n * delta
        if distance == 0:  # T is 0 at the estimate, also where its variance is 0 too
            return -target
        return distance / sqrt(distance**2 + _null_variance(lost, gained, n, delta)) - target

    return float(brentq(excess, -1.0, (gained - lost) / n, xtol=1e-15))


def _null_variance(lost: float, gained: float, n: float, delta: float) -> float:
    """Variance of gained - lost when the true difference is `delta`: Tango 1998, eqs 24-26.

    The probability of a loss is its maximum-likelihood estimate under that constraint, the larger
    root of the quadratic a x^2 + b x + c.
    """
    if delta < 0:  # for delta >= 0, c <= 0 and neither branch below cancels
        return _null_variance(gained, lost, n, -delta)
    a = 2 * n
    b = (2 * n - gained + lost) * delta - lost - gained
    c = -lost * delta * (1 - delta)
    root = sqrt(b * b - 4 * a * c)
    loss_rate = -2 * c / (b + root) if b > 0 else (root - b) / (2 * a)
    return n * (2 * loss_rate + delta * (1 - delta))


def _resampled_items(n: int, resamples: int, seed: int) -> Iterator[IntArray]:
    """Indices [n] drawn with replacement; one resample at a time keeps memory at n."""
    if n < 2 or resamples < 1:
        raise ValueError(f"{resamples} resamples of {n} items; the least is 1 resample of 2 items")
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.integers(n, size=n)


def _bca_levels(means: Scores, values: Scores, confidence: float) -> list[float]:
    """Levels at which to read the resampled `means` of `values`: Efron & Tibshirani, eq. 14.10."""
    deviations = values - values.mean()
    below = np.mean(means < values.mean()) + np.mean(means == values.mean()) / 2
    edge = 0.5 / means.size  # a share of 0 or 1 has no normal quantile
    bias = _NORMAL.inv_cdf(float(np.clip(below, edge, 1 - edge)))
    scale = 6 * float(np.sum(deviations**2)) ** 1.5
    # The jackknife's acceleration, eq. 14.15, written out for a mean.
    acceleration = float(np.sum(deviations**3)) / scale if scale else 0.0
    shifted = (bias - _two_sided_z(confidence), bias + _two_sided_z(confidence))
    return [_NORMAL.cdf(bias + at / (1 - acceleration * at)) for at in shifted]


def _spread(delta: float, discordance: float, margin: float, power: float, alpha: float) -> float:
    """sqrt(items) * (delta + margin) at which a test at `alpha` has `power`: Nam 1997."""
    if not (abs(delta) <= discordance <= 1 and 0 <= margin <= 1):
        raise ValueError(f"delta {delta}, discordance {discordance}, margin {margin}: inconsistent")
    if not 0.5 <= power < 1 or not 0 < alpha < 0.5:
        raise ValueError(f"power {power} and alpha {alpha} must lie in [0.5, 1) and (0, 0.5)")
    lost, gained = (discordance - delta) / 2, (discordance + delta) / 2
    null = sqrt(_null_variance(lost, gained, 1.0, -margin))
    true = sqrt(max(0.0, discordance - delta * delta))
    return _NORMAL.inv_cdf(1 - alpha) * null + _NORMAL.inv_cdf(power) * true


def _check_shapes(base: tuple[int, ...], tuned: tuple[int, ...]) -> None:
    if base != tuned or len(base) != 1 or base[0] == 0:
        raise ValueError(f"shapes {base} and {tuned} are not two equal, non-empty lists of items")


def _check_counts(lost: int, gained: int, n: int) -> None:
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise ValueError(f"{lost} lost and {gained} gained of {n} items is not a paired table")


def _two_sided_z(confidence: float) -> float:
    return -_NORMAL.inv_cdf(_tail(confidence))


def _tail(confidence: float) -> float:
    """Probability beyond either end of a two-sided interval."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1")
    return (1 - confidence) / 2
