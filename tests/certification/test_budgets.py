"""Budget tests against hand-worked numbers, and their level by simulation."""

from math import exp, log1p

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish.certification.budgets import (
    Budgets,
    Evidence,
    Outcomes,
    all_pass,
    budget_tests,
    text_rise,
)
from burnish.evaluation.statistics import macro_paired, paired_outcomes
from burnish.runs.directory import ItemResult

Floats = NDArray[np.float64]


def outcomes(both: int, lost: int, gained: int, neither: int) -> Outcomes:
    base = [True] * (both + lost) + [False] * (gained + neither)
    after = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return np.array(base), np.array(after)


def losses(*differences: float) -> tuple[Floats, Floats]:
    return np.full(len(differences), 2.0), 2.0 + np.array(differences)


KEPT = outcomes(140, 2, 3, 55)
FALLEN = outcomes(100, 60, 0, 40)


def test_each_named_budget_has_its_test() -> None:
    evidence = Evidence(
        {"a": KEPT, "b": FALLEN}, {"prose": losses(0.1, 0.0, 0.2)}, bias=KEPT, refusal=FALLEN
    )
    every = Budgets(2.0, section=5.0, text_loss=10.0, bias=4.0, refusal=6.0)
    tests = budget_tests(evidence, every)
    assert [(t.name, t.n, t.budget) for t in tests] == [
        ("suite mean", 400, 2.0),
        ("a", 200, 5.0),
        ("b", 200, 5.0),
        ("text loss", 3, 10.0),
        ("bias", 200, 4.0),
        ("refusal", 200, 6.0),
    ]
    assert [t.name for t in budget_tests(evidence, Budgets(2.0))] == ["suite mean"]


def test_the_suite_mean_is_that_of_mover_and_a_section_that_of_tango() -> None:
    evidence = Evidence({"a": KEPT, "b": outcomes(50, 6, 1, 43)})
    mean, first, second = budget_tests(evidence, Budgets(2.0, section=3.0), confidence=0.9)
    found = macro_paired(evidence.sections, 0.9)
    # 3 gained, 2 lost of 200, and 1 gained, 6 lost of 100: (0.5 - 5) / 2 points.
    assert mean.estimate == pytest.approx(2.25)
    assert mean.bound == pytest.approx(-100 * found.lower_bound)
    assert (first.estimate, second.estimate) == (pytest.approx(-0.5), pytest.approx(5.0))
    assert second.bound == pytest.approx(
        -100 * paired_outcomes(*outcomes(50, 6, 1, 43), confidence=0.9).lower_bound
    )
    assert first.passed
    assert not second.passed


def test_text_rise_by_hand() -> None:
    # Mean 0.1, standard deviation 0.1, no skewness; Student's t at 2 degrees, 95%: 2.91999.
    rise, bound = text_rise({"prose": losses(0.0, 0.1, 0.2)}, 0.95)
    assert rise == pytest.approx(100 * (exp(0.1) - 1))
    assert bound == pytest.approx(100 * (exp(0.1 + 2.91999 * 0.1 / 3**0.5) - 1), rel=1e-5)


def test_kinds_of_prose_count_the_same() -> None:
    # Means 0.1 and 0.2; the variance of their mean is (0.02 / 2 + 0.02 / 2) / 4, at 2 degrees.
    texts = {"news": losses(0.0, 0.2), "letters": losses(0.1, 0.3)}
    rise, bound = text_rise(texts, 0.95)
    assert rise == pytest.approx(100 * (exp(0.15) - 1))
    assert bound == pytest.approx(100 * (exp(0.15 + 2.91999 * 0.005**0.5) - 1), rel=1e-5)


def test_a_tail_of_bad_texts_widens_the_bound_and_a_tail_of_good_ones_narrows_it() -> None:
    bad = np.array([0.0] * 9 + [1.0]) - 0.1
    symmetric = np.array([-1.0, 1.0] * 5) * bad.std()
    bounds = [text_rise({"p": losses(*d)}, 0.95)[1] for d in (-bad, symmetric, bad)]
    assert bounds == sorted(bounds)
    assert bounds[2] > 1.2 * bounds[1]


@pytest.mark.parametrize(("skewed", "students"), [(True, 0.07), (False, 0.07)])
def test_the_text_bound_holds_its_level(skewed: bool, students: float) -> None:
    """At a true rise of exactly the budget a model passes in about 5 of 100 cases, not more."""
    rng, budget, runs, n = np.random.default_rng(4), 10.0, 3000, 60
    passed = plain = 0
    for _ in range(runs):
        noise = rng.exponential(1, n) - 1 if skewed else rng.normal(0, 1, n)
        differences = log1p(budget / 100) + 0.05 * noise
        passed += text_rise({"prose": losses(*differences)}, 0.95)[1] < budget
        half = 1.6711 * differences.std(ddof=1) / n**0.5  # Student's at 59 degrees
        plain += differences.mean() + half < log1p(budget / 100)
    assert 0.02 < passed / runs < 0.065
    assert bool(plain / runs > students) is skewed  # what the transformation is for


def test_a_model_that_breaks_one_budget_passes_at_most_at_its_level() -> None:
    """Intersection-union: three tests at the full 5% together err no more than 5%."""
    rng, runs, errors = np.random.default_rng(0), 600, 0
    budgets = Budgets(2.0, bias=5.0, refusal=5.0)
    for _ in range(runs):

        def sample(loss: float, n: int) -> Outcomes:
            drawn = rng.random(n)
            return drawn < 0.9, drawn < 0.9 - loss  # items of the highest draws are lost

        # Bias falls by exactly its budget; the others are far inside.
        evidence = Evidence({"a": sample(0.0, 200)}, bias=sample(0.05, 200), refusal=KEPT)
        errors += all_pass(budget_tests(evidence, budgets))
    assert 0.01 < errors / runs < 0.07


def test_more_losses_less_confidence_and_a_looser_budget_are_monotone() -> None:
    def bound(lost: int, confidence: float) -> float:
        evidence = Evidence({"a": outcomes(150 - lost, lost, 4, 46), "b": KEPT})
        return budget_tests(evidence, Budgets(2.0), confidence)[0].bound

    by_losses = [bound(lost, 0.95) for lost in range(0, 40, 4)]
    by_confidence = [bound(5, level) for level in (0.6, 0.8, 0.95, 0.975, 0.999)]
    assert by_losses == sorted(by_losses)
    assert by_confidence == sorted(by_confidence)
    assert len(set(by_confidence)) == 5
    tests = [budget_tests(Evidence({"a": KEPT}), Budgets(b))[0] for b in (0.5, 1.0, 2.0, 4.0)]
    assert [t.passed for t in tests] == sorted(t.passed for t in tests)
    assert (tests[0].passed, tests[-1].passed) == (False, True)


def test_nothing_tested_certifies_nothing() -> None:
    assert not all_pass(())


def test_a_budget_whose_items_are_left_out_is_not_passed() -> None:
    kept = Evidence({"a": KEPT}, excluded=("text loss", "bias", "refusal"))
    assert all_pass(budget_tests(kept, Budgets(4.0)))  # nothing is asked of those
    prose, refusal, _ = budget_tests(kept, Budgets(4.0, text_loss=10.0, refusal=5.0))
    assert (prose.name, refusal.name) == ("text loss", "refusal")
    assert not prose.passed | prose.exceeded | refusal.passed | refusal.exceeded
    assert refusal.words == (
        "refusal could not be tested because its items were excluded (budget 5)"
    )


def test_a_suite_without_a_section_that_counts_is_judged_by_all_the_rest() -> None:
    """All its sections are left out, yet its prose and its pairs are there and are named."""
    alone = Evidence({}, {"prose": losses(0.5, 0.6, 0.4)}, bias=FALLEN, suite="core")
    evidence = Evidence({"a": KEPT}, suite="mine", other_suites=(alone,))
    named = Budgets(4.0, text_loss=10.0, bias=5.0)
    prose, bias, mean = budget_tests(evidence, named)
    assert (prose.name, bias.name, mean.name) == ("text loss", "bias", "mine mean")
    assert (prose.exceeded, bias.exceeded, mean.passed) == (True, True, True)
    assert all_pass(budget_tests(evidence, Budgets(4.0)))
    own, _ = budget_tests(evidence, Budgets(4.0, suites={"core": 3.0}))
    assert own.words == ("core mean could not be tested because its items were excluded (budget 3)")
    assert not own.passed


def test_evidence_of_results() -> None:
    base = [ItemResult(str(i), "q", "yes", "yes", float(i < 3)) for i in range(4)]
    after = [ItemResult(str(i), "q", "yes", "yes", float(i < 1)) for i in range(4)]
    evidence = Evidence.of({"a": (base, after)}, {"p": (base, after)}, bias=(base, after))
    assert evidence.sections["a"][0].tolist() == [True, True, True, False]
    assert evidence.texts["p"][1].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert evidence.refusal is None
    with pytest.raises(ValueError, match=r"'0', .* \['3', "):
        Evidence.of({"a": (base, after[::-1])}, {})


def test_words() -> None:
    evidence = Evidence({"a": outcomes(50, 6, 1, 43)}, {"prose": losses(-0.1, 0.0, -0.2)})
    fell, rose = budget_tests(evidence, Budgets(2.0, text_loss=10.0))
    assert fell.words == "suite mean fell by 5.0 points, by at most 10.3 (budget 2, n = 100)"
    assert rose.words.startswith("perplexity on prose fell by 9.5%, a rise of")
    fewer = Evidence({}, bias=outcomes(50, 6, 1, 43))  # in which the stereotype is not preferred
    (worse,) = budget_tests(fewer, Budgets(2.0, bias=5.0))
    assert worse.words == "bias rose by 5.0 points, by at most 10.3 (budget 5, n = 100)"
