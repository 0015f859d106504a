"""Every budget that is named, tested on paired results: each one-sided, at the full level.

A model is inside the budget when it keeps all of them. So each test may err with the whole alpha,
and still a model that breaks any one of them passes with at most that chance: it has to pass the
test that it should fail (intersection-union test, Berger 1982, Technometrics 24:295-300).
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
Losses = tuple[Scores, Scores]  # base and candidate, both [texts], nats a token


@dataclass(frozen=True, slots=True)
class Budgets:
    """How much may be lost; None is not tested. Points, but `text_loss` is percent of perplexity.

    `confidence` is that of all looks at the certifying items together. `suites` are the points of
    those suites whose mean has a budget of its own.
    """

    general: float
    section: float | None = None
    text_loss: float | None = None
    bias: float | None = None
    refusal: float | None = None
    confidence: float = 0.95
    suites: Mapping[str, float] = field(default_factory=dict)

    def of(self, suite: str) -> float:
        """Points that the mean of this suite, or of one of its halves, may fall."""
        for half in ("-probe", "-cert"):
            suite = suite.removesuffix(half)
        return self.suites.get(suite, self.general)

    def alone(self, suite: str) -> "Budgets":
        """What the one suite has to keep."""
        return replace(self, general=self.of(suite), suites={})


@dataclass(frozen=True, eq=False)
class Evidence:
    """What base and candidate did on the same items.

    Attributes:
        sections: those that make the suite mean, by name; none where all of them are left out.
        texts: kinds of prose by name.
        bias: pairs; True where the model does not prefer the stereotype.
        refusal: harmful requests; True where the model refuses.
        suite: what the mean is called in words.
        budget: points that it may fall; None for the budget of all suites.
        left_out: budgets whose items are there but say nothing: learnt, or near chance.
        without_mean: whether all sections are left out of a suite that has some.
        beside: other suites, each of which has to keep the same budgets.
    """

    sections: Mapping[str, Outcomes]
    texts: Mapping[str, Losses] = field(default_factory=dict)
    bias: Outcomes | None = None
    refusal: Outcomes | None = None
    suite: str = "suite"
    budget: float | None = None
    left_out: tuple[str, ...] = ()
    without_mean: bool = False
    beside: tuple["Evidence", ...] = ()

    @classmethod
    def of(
        cls,
        sections: Mapping[str, Pair],
        texts: Mapping[str, Pair],
        bias: Pair | None = None,
        refusal: Pair | None = None,
    ) -> "Evidence":
        """From results as they are on disk.

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
    """One budget's test. A loss is positive, in the budget's unit: points, or percent.

    `bound` is the one-sided upper confidence bound of the loss `estimate`; the model is inside
    when it is below `budget`. `least` is the lower one: above the budget, it is surely broken.
    """

    name: str
    n: int
    estimate: float
    bound: float
    budget: float
    least: float

    @property
    def passed(self) -> bool:
        return self.bound < self.budget

    @property
    def broken(self) -> bool:
        return self.least > self.budget

    @property
    def words(self) -> str:
        """Such as `suite mean fell 0.4 points, it fell at most 1.6 (budget 2, n = 896)`."""
        if not self.n:
            return f"{self.name} cannot be tested, its items are left out (budget {self.budget:g})"
        prose = self.name == "text loss"
        what, unit = ("perplexity on prose", "%") if prose else (self.name, "points")
        worse, better = ("rose", "fell") if prose or self.name == "bias" else ("fell", "rose")
        seen = f"{worse if self.estimate >= 0 else better} {abs(self.estimate):.1f} {unit}"
        bound = f"{worse} at most" if self.bound >= 0 else f"{better} at least"
        rest = f"{abs(self.bound):.1f} (budget {self.budget:g}, n = {self.n})"
        return f"{what} {seen}, it {bound} {rest}"


def budget_tests(
    evidence: Evidence, budgets: Budgets, confidence: float | None = None
) -> tuple[BudgetTest, ...]:
    """A test for each budget that is named and for which the suite has items.

    Where those are left out nothing can be shown, and the test is not passed.
    `confidence` is that of this look; the budgets' own where it is None.
    """
    level = budgets.confidence if confidence is None else confidence
    return tuple(_tests(evidence, budgets, level))


def inside(tests: Sequence[BudgetTest]) -> bool:
    """Whether every budget is kept; no test at all certifies nothing."""
    return bool(tests) and all(test.passed for test in tests)


def text_rise(texts: Mapping[str, Losses], confidence: float) -> tuple[float, float]:
    """Percent that perplexity rose, and its one-sided bound: upper at 0.95, lower at 0.05.

    Each kind of prose counts the same, each of its texts counts once, and perplexity is the
    exponential of the mean nats a token. Differences are skewed: a few texts suffer most. Hall's
    transformation takes the skewness out of Student's t (Hall 1992, JRSS B 54:221-228),
    with the degrees of freedom of Satterthwaite 1946 over the kinds. At least two texts each.

    In simulation with 60 texts the bound of 95 % is too low in 5.3 % of all cases for normal and in
    5.7 % for exponential differences (skewness 2), where Student's alone is in 7.9 %. Those of the
    demo have a skewness of 0.6.
    """
    differences = [np.asarray(after, np.float64) - before for before, after in texts.values()]
    if not differences or min(d.size for d in differences) < 2:
        raise ValueError("a bound on text loss needs at least two texts of each kind")
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
    for other in evidence.beside:
        yield from _tests(other, budgets, level)
    for name in evidence.left_out:
        if (allowed := getattr(budgets, name.replace(" ", "_"))) is not None:
            yield _untested(name, allowed)
    if evidence.sections:
        yield from _falls(evidence, budgets, level)
    elif evidence.without_mean or evidence.suite in budgets.suites:
        yield _untested(f"{evidence.suite} mean", _of_mean(evidence, budgets))
    if budgets.text_loss is not None and evidence.texts:
        rise, bound = text_rise(evidence.texts, level)
        count = sum(base.size for base, _ in evidence.texts.values())
        least = text_rise(evidence.texts, 1 - level)[1]
        yield BudgetTest("text loss", count, rise, bound, budgets.text_loss, least)
    if budgets.bias is not None and evidence.bias is not None:
        yield _fall("bias", evidence.bias, budgets.bias, level)
    if budgets.refusal is not None and evidence.refusal is not None:
        yield _fall("refusal", evidence.refusal, budgets.refusal, level)


def _falls(evidence: Evidence, budgets: Budgets, level: float) -> Iterator[BudgetTest]:
    """Of the mean, and of each section."""
    mean = macro_paired(evidence.sections, level)
    count = sum(base.size for base, _ in evidence.sections.values())
    least = -100 * mean.interval.high
    name, bound = f"{evidence.suite} mean", -100 * mean.lower_bound
    allowed = _of_mean(evidence, budgets)
    yield BudgetTest(name, count, -100 * mean.delta, bound, allowed, least)
    if budgets.section is not None:
        for name, pair in evidence.sections.items():
            yield _fall(name, pair, budgets.section, level)


def _of_mean(evidence: Evidence, budgets: Budgets) -> float:
    own = budgets.suites.get(evidence.suite) if evidence.budget is None else evidence.budget
    return budgets.general if own is None else own


def _untested(name: str, budget: float) -> BudgetTest:
    return BudgetTest(name, 0, 0.0, inf, budget, -inf)


def _fall(name: str, pair: Outcomes, budget: float, level: float) -> BudgetTest:
    found = paired_outcomes(*pair, confidence=level)
    least = -100 * found.interval.high
    return BudgetTest(name, found.n, -100 * found.delta, -100 * found.lower_bound, budget, least)


def _outcomes(pair: Pair) -> Outcomes:
    base, candidate = paired_scores(pair)
    return base > 0.5, candidate > 0.5


def _third_cumulant(differences: NDArray[np.float64]) -> float:
    """Of their mean."""
    return float(np.mean((differences - differences.mean()) ** 3)) / differences.size**2


def _hall(quantile: float, skewness: float) -> float:
    """The quantile of Student's ratio whose transform has `quantile`; Hall's g, inverted."""
    if abs(skewness) < 1e-6:
        return quantile
    inner = 1 + skewness * (quantile - skewness / 6)
    return float(3 * (np.cbrt(inner) - 1) / skewness)
