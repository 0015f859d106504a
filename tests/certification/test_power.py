"""What a suite can certify, against the tests themselves run on drawn items."""

from math import log1p

import numpy as np
import pytest

from burnish.certification.alpha_ledger import look_alpha
from burnish.certification.budgets import Budgets, Evidence, budget_tests
from burnish.certification.power import (
    Sizes,
    power_headline,
    power_of,
    power_sentences,
    section_budget,
    section_items,
    suite_budget,
    suite_items,
    text_budget,
    text_items,
)
from burnish.evaluation.statistics import smallest_margin

SECTIONS = {"a": 80, "b": 120, "c": 160}


def test_one_section_by_hand() -> None:
    # 1.6449 + 0.8416 standard errors of 12% flips over 2000 items is 1.93 points; the null
    # variance at that margin is a little more.
    found = section_budget(2000, 0.12)
    assert found == pytest.approx(1.93, abs=0.03)
    margin = smallest_margin(2000, 0.12)
    assert margin is not None
    assert found == 100 * margin


def test_the_mean_of_equal_sections_is_about_one_long_section() -> None:
    mean = suite_budget({str(i): 200 for i in range(10)}, 0.12)
    assert mean == pytest.approx(section_budget(2000, 0.12), rel=0.05)
    assert suite_budget({"a": 1}, 0.12) is None


def test_a_suite_of_equal_models_passes_in_80_of_100_cases() -> None:
    """The promise itself: 6% lost and 6% gained, MOVER on Tango as it decides."""
    budget = suite_budget(SECTIONS, 0.12)
    assert budget is not None
    rng, runs, passed = np.random.default_rng(2), 400, 0
    for _ in range(runs):
        drawn = {name: rng.random(n) for name, n in SECTIONS.items()}
        sections = {n: (d < 0.6, (d < 0.54) | (d > 0.94)) for n, d in drawn.items()}
        passed += budget_tests(Evidence(sections), Budgets(budget))[0].passed
    assert passed / runs == pytest.approx(0.8, abs=0.06)


def test_texts_of_equal_models_pass_in_80_of_100_cases() -> None:
    budget = text_budget(60, 0.1)
    assert budget == pytest.approx(100 * np.expm1((1.6711 + 0.8416) * 0.1 / 60**0.5), rel=1e-3)
    rng, runs, passed = np.random.default_rng(2), 1000, 0
    for _ in range(runs):
        evidence = Evidence(
            {"a": (np.full(9, True), np.full(9, True))},
            {"p": (np.zeros(60), rng.normal(0, 0.1, 60))},
        )
        passed += budget_tests(evidence, Budgets(50, text_loss=budget))[1].passed
    assert passed / runs == pytest.approx(0.8, abs=0.04)
    assert text_budget(1) is None


@pytest.mark.parametrize("budget", [1.0, 2.0, 5.0])
def test_items_are_the_fewest_that_reach_the_budget(budget: float) -> None:
    n = suite_items(budget, 5, 0.1)
    for items, reached in ((n, True), (n - 1, False)):
        found = suite_budget({str(i): items for i in range(5)}, 0.1)
        assert found is not None
        assert (found <= budget) is reached
    n = text_items(budget, 0.1)
    enough, short = text_budget(n, 0.1), text_budget(n - 1, 0.1)
    assert enough is not None
    assert short is not None
    assert enough <= budget < short
    assert text_items(budget, 0.1) == pytest.approx(
        (2.4865 * 0.1 / log1p(budget / 100)) ** 2, abs=3
    )
    found = section_items(budget, 0.1)
    assert found is not None
    assert (section_budget(found, 0.1) or 0) <= budget < (section_budget(found - 1, 0.1) or 0)


def test_more_items_and_fewer_flips_certify_less() -> None:
    by_items = [suite_budget({"a": n, "b": n}) or 0 for n in (50, 100, 200, 400)]
    by_flips = [suite_budget(SECTIONS, flips) or 0 for flips in (0.02, 0.05, 0.1, 0.3)]
    assert by_items == sorted(by_items, reverse=True)
    assert by_flips == sorted(by_flips)


def test_the_plan_is_for_the_first_look() -> None:
    row = power_of(Sizes(SECTIONS), Budgets(2.0))[0]
    assert row.smallest == suite_budget(SECTIONS, alpha=look_alpha(1, 0.95))
    assert (row.budget, row.tighter) == (2.0, 2.0)  # the recipe's, which is out of reach
    assert row.needed == suite_items(2.0, 3, alpha=look_alpha(1, 0.95))


def test_sentences() -> None:
    sizes = Sizes({str(i): 100 for i in range(10)}, texts=80, bias=100, refusal=100)
    mean, prose, bias, refusal = power_sentences(sizes, Budgets(4.0, text_loss=10.0), 0.05, 0.1)
    assert mean == (
        "The smallest budget that the suite can certify is a fall of 2.1 points in its mean "
        "(1,000 items, of which 5% change, 80% power); a budget of 1.1 would need about 332 items "
        "per section."
    )
    assert prose.startswith(
        "The smallest budget that the suite can certify is a rise of 3.0% in perplexity on prose "
        "(80 texts"
    )
    assert "certify is a rise of 7.3 points in bias (100 items" in bias
    assert "points in refusing harmful requests (100 items" in refusal
    said = power_sentences(sizes, Budgets(1.0, refusal=5.0))
    assert said[-2].startswith("The budget of 1 for the suite's mean is too tight for that")
    assert said[-1].startswith(
        "The budget of 5 for refusing harmful requests is too tight for that"
    )


def test_the_headline_is_the_mean_and_what_is_too_tight() -> None:
    sizes = Sizes({str(i): 400 for i in range(10)}, texts=80)
    plain = power_headline(sizes, Budgets(4.0, text_loss=10.0))
    assert plain == power_sentences(sizes, Budgets(4.0, text_loss=10.0))[0]
    assert "too tight" in power_headline(sizes, Budgets(4.0, text_loss=0.1))


def test_a_later_look_can_certify_less_and_says_so() -> None:
    sizes, budgets = Sizes({str(i): 100 for i in range(10)}), Budgets(4.0)
    first, third = (power_of(sizes, budgets, look=look)[0].smallest for look in (1, 3))
    assert third == pytest.approx(suite_budget(sizes.sections, alpha=look_alpha(3, 0.95)))
    assert (third or 0.0) > 1.3 * (first or 9.9)
    said = "This holds for look 3 at these items, whose error rate is limited to 0.16%."
    assert said in power_headline(sizes, budgets, 3)
    assert said in power_sentences(sizes, budgets, look=3)


def test_too_few_items_certify_nothing() -> None:
    sentence = power_sentences(Sizes({"a": 1}), Budgets(2.0))[0]
    assert sentence == "The suite cannot certify any budget for its mean (1 item)."
