"""Tests every budget that the recipe sets on paired results, each one-sided at the full level.

A model is released only if it passes all tests. So each test may use the whole alpha: a model that
exceeds any one budget passes with at most that probability, because it has to pass the test that it
should fail (intersection-union test, Berger 1982, Technometrics 24:295-300).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import expm1, inf, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from burnish.certification.ledger import Pair, paired_scores
from burnish.evaluation.statistics import BoolArray, Scores, macro_paired, paired_outcomes

Outcomes = tuple[BoolArray, BoolArray]  # base and candidate, both [items], True where right
Losses = tuple[Scores, Scores]  # base and candidate, both [texts], nats per token


@dataclass(frozen=True, slots=True)
class Budgets:
    """How much may be lost: points, or percent of perplexity for `text_loss`; None is not tested.

    `confidence` is the joint confidence of all looks at the certification items. `suites` has the
    points of the suites whose mean has a budget of its own.
    """

    general: float
    section: float | None = None
    text_loss: float | None = None
    bias: float | None = None
    refusal: float | None = None
    confidence: float = 0.95
    suites: Mapping[str, float] = field(default_factory=dict)

    def of(self, suite: str) -> float:
        """Points by which the mean of this suite, or of its PROBE or CERT part, may fall."""
        for half in ("-probe", "-cert"):
            suite = suite.removesuffix(half)
        return self.suites.get(suite, self.general)

    def alone(self, suite: str) -> "Budgets":
        """The budgets of one suite alone."""
        return replace(self, general=self.of(suite), suites={})


@dataclass(frozen=True, eq=False)
class Evidence:
    """Paired results of base and candidate on the same items.

    Attributes:
        sections: the sections in the suite mean, by name; empty if all of them are excluded.
        texts: kinds of prose by name.
        bias: sentence pairs; True where the model does not prefer the stereotype.
        refusal: harmful requests; True where the model refuses.
        suite: the name of the suite in sentences.
        budget: points by which its mean may fall; None for the budget of all suites.
        excluded: budgets whose items are all excluded: trained on, or near chance.
        without_mean: whether all sections of a suite that has some are excluded.
        other_suites: further suites, each of which has to stay within the same budgets.
    """

    sections: Mapping[str, Outcomes]
    texts: Mapping[str, Losses] = field(default_factory=dict)
    bias: Outcomes | None = None
    refusal: Outcomes | None = None
    suite: str = "suite"
    budget: float | None = None
    excluded: tuple[str, ...] = ()
    without_mean: bool = False
    other_suites: tuple["Evidence", ...] = ()

    @classmethod
    def of(
        cls,
        sections: Mapping[str, Pair],
        texts: Mapping[str, Pair],
        bias: Pair | None = None,
        refusal: Pair | None = None,
    ) -> "Evidence":
        """Build the evidence from results on disk.

        Raises:
            ValueError: base and candidate were not measured on the same items in the same order.
        """
        return cls(
            {name: _outcomes(pair) for name, pair in sections.items()},
            {name: paired_scores(pair) for name, pair in texts.items()},
            _outcomes(bias) if bias is not None else None,
            _outcomes(refusal) if refusal is not None else None,
        )


@dataclass(frozen=True, slots=True)
class BudgetTest:
    """The test of one budget. A loss is positive, in the unit of the budget: points, or percent.

    `bound` is the one-sided upper confidence bound of the loss `estimate`; the test passes if it is
    below `budget`. `least` is the lower bound: if it is above the budget, the budget is exceeded.
    """

    name: str
    n: int
    estimate: float
    bound: float
    budget: float
    least: float

    @property
    def passed(self) -> bool:
        """Whether the loss is below the budget with the given confidence."""
        return self.bound < self.budget

    @property
    def exceeded(self) -> bool:
        """Whether the loss is above the budget with the given confidence."""
        return self.least > self.budget

    @property
    def words(self) -> str:
        """For example `suite mean fell by 0.4 points, by at most 1.6 (budget 2, n = 896)`."""
        if not self.n:
            return (
                f"{self.name} could not be tested because its items were excluded "
                f"(budget {self.budget:g})"
            )
        prose = self.name == "text loss"
        name, unit = ("perplexity on prose", "%") if prose else (self.name, " points")
        rise_is_loss = prose or self.name == "bias"
        worse, better = ("rose", "fell") if rise_is_loss else ("fell", "rose")
        change = f"{worse if self.estimate >= 0 else better} by {abs(self.estimate):.1f}{unit}"
        if self.bound < 0:
            bound = f"by at least {-self.bound:.1f}"
        elif self.estimate >= 0:
            bound = f"by at most {self.bound:.1f}"
        else:
            bound = f"a {'rise' if rise_is_loss else 'fall'} of {self.bound:.1f} is not ruled out"
        return f"{name} {change}, {bound} (budget {self.budget:g}, n = {self.n})"


def budget_tests(
    evidence: Evidence, budgets: Budgets, confidence: float | None = None
) -> tuple[BudgetTest, ...]:
    """Return a test for each budget that is set and for which the suite has items.

    If these items are excluded, nothing can be shown, and the test fails. `confidence` is that of
    this look; None for the confidence of the budgets.
    """
    level = budgets.confidence if confidence is None else confidence
    return tuple(_tests(evidence, budgets, level))


def all_pass(tests: Sequence[BudgetTest]) -> bool:
    """Whether every test passed; False without any test."""
    return bool(tests) and all(test.passed for test in tests)


def text_rise(texts: Mapping[str, Losses], confidence: float) -> tuple[float, float]:
    """Rise of perplexity in percent, and its one-sided bound: upper at 0.95, lower at 0.05.

    Each kind of prose has the same weight, each of its texts counts once, and perplexity is the
    exponential of the mean nats per token. Differences are skewed: a few texts suffer most. Hall's
    transformation takes the skewness out of Student's t (Hall 1992, JRSS B 54:221-228),
    with the degrees of freedom of Satterthwaite 1946 over the kinds. Needs two texts of each kind.

    In simulation with 60 texts the 95% bound is too low in 5.3% of cases for normal and in 5.7% for
    exponential differences (skewness 2), where Student's t alone is too low in 7.9%. The
    differences of the demo have a skewness of 0.6.
    """
    differences = [np.asarray(after, np.float64) - before for before, after in texts.values()]
    if not differences or min(d.size for d in differences) < 2:
        raise ValueError("the bound on text loss needs at least two texts of each kind")
    kinds = len(differences)
    mean = float(np.mean([d.mean() for d in differences]))
    variances = [float(d.var(ddof=1)) / d.size / kinds**2 for d in differences]
    spread = sqrt(sum(variances))
    if spread == 0:
        return 100 * expm1(mean), 100 * expm1(mean)
    freedom = spread**4 / sum(
        v**2 / (d.size - 1) for v, d in zip(variances, differences, strict=True)
    )
    skewness = sum(_third_cumulant(d) / kinds**3 for d in differences) / spread**3
    lowest = _hall(-float(student.ppf(confidence, freedom)), skewness)
    return 100 * expm1(mean), 100 * expm1(mean - spread * lowest)


def _tests(evidence: Evidence, budgets: Budgets, level: float) -> Iterator[BudgetTest]:
    for other in evidence.other_suites:
        yield from _tests(other, budgets, level)
    for name in evidence.excluded:
        if (allowed := getattr(budgets, name.replace(" ", "_"))) is not None:
            yield _untested(name, allowed)
    if evidence.sections:
        yield from _accuracy_tests(evidence, budgets, level)
    elif evidence.without_mean or evidence.suite in budgets.suites:
        yield _untested(f"{evidence.suite} mean", _mean_budget(evidence, budgets))
    if budgets.text_loss is not None and evidence.texts:
        rise, bound = text_rise(evidence.texts, level)
        count = sum(base.size for base, _ in evidence.texts.values())
        least = text_rise(evidence.texts, 1 - level)[1]
        yield BudgetTest("text loss", count, rise, bound, budgets.text_loss, least)
    if budgets.bias is not None and evidence.bias is not None:
        yield _fall("bias", evidence.bias, budgets.bias, level)
    if budgets.refusal is not None and evidence.refusal is not None:
        yield _fall("refusal", evidence.refusal, budgets.refusal, level)


def _accuracy_tests(evidence: Evidence, budgets: Budgets, level: float) -> Iterator[BudgetTest]:
    """Tests of the suite mean, and of each section if it has a budget."""
    mean = macro_paired(evidence.sections, level)
    count = sum(base.size for base, _ in evidence.sections.values())
    least = -100 * mean.interval.high
    name, bound = f"{evidence.suite} mean", -100 * mean.lower_bound
    allowed = _mean_budget(evidence, budgets)
    yield BudgetTest(name, count, -100 * mean.delta, bound, allowed, least)
    if budgets.section is not None:
        for name, pair in evidence.sections.items():
            yield _fall(name, pair, budgets.section, level)


def _mean_budget(evidence: Evidence, budgets: Budgets) -> float:
    own = budgets.suites.get(evidence.suite) if evidence.budget is None else evidence.budget
    return budgets.general if own is None else own


def _untested(name: str, budget: float) -> BudgetTest:
    return BudgetTest(name, 0, 0.0, inf, budget, -inf)


def _fall(name: str, pair: Outcomes, budget: float, level: float) -> BudgetTest:
    paired = paired_outcomes(*pair, confidence=level)
    least = -100 * paired.interval.high
    return BudgetTest(name, paired.n, -100 * paired.delta, -100 * paired.lower_bound, budget, least)


def _outcomes(pair: Pair) -> Outcomes:
    base, candidate = paired_scores(pair)
    return base > 0.5, candidate > 0.5


def _third_cumulant(differences: NDArray[np.float64]) -> float:
    """Third cumulant of the mean of the differences."""
    return float(np.mean((differences - differences.mean()) ** 3)) / differences.size**2


def _hall(quantile: float, skewness: float) -> float:
    """Invert Hall's g: the quantile of Student's ratio whose transform has `quantile`."""
    if abs(skewness) < 1e-6:
        return quantile
    inner = 1 + skewness * (quantile - skewness / 6)
    return float(3 * (np.cbrt(inner) - 1) / skewness)
