"""The fixed sequence: what it asks for, where it stops, how often it errs, and what it says."""

import numpy as np
import pytest

from burnish.certification.budgets import Budgets, Evidence, all_pass, budget_tests
from burnish.certification.fixed_sequence import Certificate, certify, merge_looks
from burnish.runs.candidates import Candidate

BUDGETS = Budgets(2.0)
ORDER = [Candidate("ab", 40, scale) for scale in (0.25, 0.5, 0.75, 1.0)]


def fallen(lost: int, n: int = 1000) -> Evidence:
    base, after = np.full(n, True), np.full(n, True)
    after[:lost] = False
    return Evidence({"a": (base, after)})


class Asked:
    """Evidence by scale, and which was asked for."""

    def __init__(self, **lost: int) -> None:
        self.lost = lost
        self.scales: list[float] = []

    def __call__(self, candidate: Candidate) -> Evidence:
        self.scales.append(candidate.scale)
        return fallen(self.lost[f"s{int(100 * candidate.scale)}"])


def test_the_last_before_the_first_failure_is_released() -> None:
    asked = Asked(s25=0, s50=5, s75=40, s100=0)
    found = certify(ORDER, asked, BUDGETS)
    assert asked.scales == [0.25, 0.5, 0.75]  # the one behind the failure is never measured
    assert [tested.passed for tested in found.tested] == [True, True, False]
    assert found.released == ORDER[1]


def test_all_pass() -> None:
    assert certify(ORDER, lambda _: fallen(3), BUDGETS).released == ORDER[-1]


@pytest.mark.parametrize("order", [[], ORDER])
def test_the_base_stays_where_none_passes(order: list[Candidate]) -> None:
    found = certify(order, lambda _: fallen(300), BUDGETS)
    assert found.released is None
    assert "the base model is kept" in found.reasons[-2]
    assert len(found.tested) == min(len(order), 1)


def test_the_base_passes_without_being_asked() -> None:
    asked = Asked(s50=100)
    found = certify([Candidate("ab", 40, 0.0), ORDER[1]], asked, BUDGETS)
    assert asked.scales == [0.5]
    assert [tested.passed for tested in found.tested] == [True, False]
    assert found.released is None


def test_words() -> None:
    found = certify(ORDER, Asked(s25=0, s50=5, s75=40), BUDGETS)
    kept, broken, look = found.reasons
    assert kept.startswith(
        "Step 40 at scale 0.5 stays within every budget: suite mean fell by 0.5 points, "
        "by at most 1.1 "
    )
    assert broken.startswith(
        "Step 40 at scale 0.75 could not be certified within every budget: suite mean "
        "fell by 4.0 points"
    )
    assert look == (
        "This is look 1 at the certification items, tested at 96% confidence so that all looks "
        "together have 95%."
    )


def released_over_budget(runs: int) -> tuple[float, float]:
    """Shares of runs that release a model whose true drop is the budget: ours, and any that pass.

    Six candidates, each on outcomes of its own, which leaves a search the most room for luck.
    """
    rng, ours, any_of_them = np.random.default_rng(7), 0, 0

    def outcomes(_: Candidate) -> Evidence:
        drawn = rng.random(400)
        base, after = drawn < 0.7, (drawn < 0.62) | (drawn > 0.94)  # 8% lost, 6% gained
        return Evidence({"a": (base, after)})

    for _ in range(runs):
        seen = {candidate.key: outcomes(candidate) for candidate in ORDER}
        found: Certificate = certify(ORDER, lambda c, seen=seen: seen[c.key], BUDGETS)
        ours += found.released is not None
        any_of_them += any(all_pass(budget_tests(e, BUDGETS, 0.96)) for e in seen.values())
    return ours / runs, any_of_them / runs


def test_the_error_of_the_whole_sequence_is_that_of_one_test() -> None:
    ours, any_of_them = released_over_budget(800)
    assert 0.01 < ours < 0.055  # 4% at the first look
    assert any_of_them > 0.09  # what stopping at the first failure is for


def test_a_model_over_budget_behind_good_ones_errs_no_more() -> None:
    """The first model over budget is the only one that can err: the safe ones cost nothing."""
    rng, runs, errors = np.random.default_rng(3), 600, 0
    losses = dict(zip((c.key for c in ORDER), (0.0, 0.005, 0.02, 0.03), strict=True))

    def measure(candidate: Candidate) -> Evidence:
        drawn = rng.random(600)
        return Evidence({"a": (drawn < 0.8, drawn < 0.8 - losses[candidate.key])})

    for _ in range(runs):
        released = certify(ORDER, measure, BUDGETS).released
        errors += released in ORDER[2:]
    assert errors / runs < 0.055


def test_two_looks_as_one_tell_what_failed() -> None:
    failed, passed = (certify(ORDER[:1], lambda _, n=n: fallen(n), BUDGETS) for n in (300, 0))
    both = merge_looks(failed, passed)
    assert both.released == ORDER[0]
    assert [one.passed for one in both.tested] == [False, True]
    assert both.reasons == (passed.reasons[0], failed.reasons[0], *passed.reasons[1:])
    none = merge_looks(failed, failed)
    assert none.released is None
    assert none.reasons == (failed.reasons[0], *failed.reasons)
