"""What is expected of CERT, by hand, by draws and on drops that grow with the distance."""

import numpy as np
import pytest

from burnish.certification.budgets import Budgets
from burnish.certification.forecast import Forecast
from burnish.certification.ordering import order_of_testing
from burnish.runs.candidates import Candidate

BUDGETS = Budgets(2.0, text_loss=10.0)
ERROR = 1.3
ON_CERT = (3 / 7) ** 0.5


def candidate(
    drop: float,
    gain: float = 5.0,
    *,
    error: float = ERROR,
    text: float | None = None,
    kl: float | None = None,
    attempt: str = "",
) -> Candidate:
    return Candidate(
        f"{drop:g}{kl}{attempt}",
        step=40,
        scale=1.0,
        gain=gain,
        drop=drop,
        drop_range=(drop - 1.96 * error, drop + 1.96 * error),
        text_loss=text,
        kl=kl,
        attempt=attempt,
    )


def test_the_chance_to_pass_is_how_often_draws_pass() -> None:
    one, forecast = candidate(0.6, text=5.0), Forecast([], BUDGETS)
    rng = np.random.default_rng(0)
    truly = rng.normal(0.6, ERROR, 200_000)  # what PROBE leaves possible
    bounds = rng.normal(truly, ON_CERT * ERROR) + 1.75 * ON_CERT * ERROR
    assert forecast.upper_drop(one) == pytest.approx(bounds.mean(), abs=0.02)
    assert forecast.pass_probability(one) == pytest.approx((bounds < 2).mean(), abs=0.005)
    assert forecast.pass_probability(candidate(0.6, text=9.5)) == 0  # prose lost too much
    assert forecast.pass_probability(candidate(1.9, error=0)) == 1
    assert not forecast.within_budget(candidate(2.1, error=0))


def test_a_healed_model_is_not_behind_weak_ones_of_another_attempt() -> None:
    weak = [candidate(0.35, 25), candidate(0.67, 37)]
    healed = [candidate(0.64, 76, text=5.0, attempt="1-continue")]
    ruined = [candidate(9.0, 90, attempt="2-rate")]
    forecast = Forecast([*weak, *healed, *ruined], BUDGETS)
    assert order_of_testing([*weak, *healed, *ruined], forecast) == healed
    assert order_of_testing([*weak, *ruined], forecast) == weak
    chances = [forecast.pass_probability(one) for one in weak]
    assert forecast.expected_gain(weak) == pytest.approx(25 * chances[0] + 12 * chances[1])


def test_where_the_others_show_the_points_a_nat_they_are_the_prior() -> None:
    """By hand: 5 others of 10 points a nat and no error to speak of, then 0.1 nats from the base.

    Prior 1 +- 1, seen 3 +- 1: in the middle, with half of the variance.
    """
    others = [candidate(10 * kl, error=1e-4, kl=kl) for kl in (0.2, 0.3, 0.5, 0.7, 0.9)]
    one = candidate(3.0, error=1.0, kl=0.1)
    forecast = Forecast([*others, one], BUDGETS)
    assert forecast.expected_drop(one) == pytest.approx((2.0, 0.5**0.5), abs=1e-3)
    assert forecast.upper_drop(one) == pytest.approx(2.0 + 1.75 * ON_CERT, abs=1e-3)


def test_without_distances_or_with_few_of_them_probe_stands_alone() -> None:
    near = candidate(1.0, kl=0.1)
    for others in ([], [candidate(9.0), candidate(5.0)], [candidate(10.0, kl=1.0)]):
        assert Forecast([*others, near], BUDGETS).expected_drop(near) == pytest.approx((1.0, ERROR))
    gained = [candidate(-9.0, kl=kl) for kl in (0.5, 0.6, 0.7, 0.8, 0.9)]  # no drop to scale
    assert Forecast([*gained, near], BUDGETS).expected_drop(near) == pytest.approx((1.0, ERROR))
    same = candidate(1.0, kl=0.0, attempt="base")
    assert Forecast([same, near], BUDGETS).expected_drop(same) == pytest.approx((1.0, ERROR))


def test_the_distance_brings_the_drop_nearer_to_the_truth_and_errs_as_it_says() -> None:
    """Searches whose drops are 5 to 20 points a nat, each candidate half as much off again."""
    rng = np.random.default_rng(3)
    alone, informed, ratios = [], [], []
    for _ in range(100):
        rate = rng.uniform(5, 20)
        kl = rng.choice([0.02, 0.05, 0.1, 0.15, 0.3, 0.6, 1.2], 7, replace=False)
        truth = rate * kl * rng.uniform(0.5, 1.5, 7)
        found = [candidate(d, kl=k) for d, k in zip(rng.normal(truth, ERROR), kl, strict=True)]
        forecast = Forecast(found, BUDGETS)
        for one, true in zip(found, truth, strict=True):
            if (one.kl or 0) > 0.1:  # far outside the budget, whatever is believed
                continue
            mean, error = forecast.expected_drop(one)
            assert one.drop is not None
            alone.append(one.drop - true)
            informed.append(mean - true)
            ratios.append((mean - true) / error)
    assert np.std(informed) < 0.6 * np.std(alone)
    assert 0.4 < np.std(ratios) < 1.1


def test_of_two_attempts_the_nearer_one_is_asked_first() -> None:
    """PROBE puts the other first, by less than its error."""
    ruin = [candidate(12.5, 78, kl=1.3), candidate(8.0, 64, kl=0.42), candidate(4.3, 44, kl=0.17)]
    weak = [candidate(0.4, 25, kl=0.058), candidate(0.7, 37, kl=0.088)]
    mended = candidate(0.8, 76, kl=0.11, attempt="1-continue")
    anchored = candidate(1.2, 76, kl=0.022, attempt="2-anchor")
    every = [*ruin, *weak, mended, anchored]
    assert order_of_testing(every, Forecast(every, BUDGETS)) == [anchored]
    assert order_of_testing(every, Forecast([], BUDGETS)) == [mended]
