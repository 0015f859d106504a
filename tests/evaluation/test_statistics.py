"""Checks against published figures, independent implementations and direct computation."""

import re
from itertools import product
from math import comb, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, bootstrap, norm
from statsmodels.stats.contingency_tables import mcnemar  # type: ignore[import-untyped]

from burnish.evaluation.statistics import (
    BoolArray,
    IntArray,
    Interval,
    Scores,
    items_needed,
    macro_paired,
    mcnemar_midp,
    paired_bootstrap,
    paired_bootstrap_metric,
    paired_outcomes,
    smallest_margin,
    tango,
)


@st.composite
def paired_tables(draw: st.DrawFn) -> tuple[int, int, int]:
    """(lost, gained, n)."""
    n = draw(st.integers(1, 10**6))
    lost = draw(st.integers(0, n))
    return lost, draw(st.integers(0, n - lost)), n


def outcomes(lost: int, gained: int, both: int, neither: int) -> tuple[BoolArray, BoolArray]:
    counts = [lost, gained, both, neither]
    base = np.repeat([True, False, True, False], counts)
    return base, np.repeat([False, True, True, False], counts)


def null_variance(lost: float, gained: float, n: float, delta: float) -> float:
    """Tango's null variance with the likelihood maximised by search, not in closed form."""

    def deviance(loss_rate: float) -> float:
        rates = (loss_rate, loss_rate + delta, 1 - 2 * loss_rate - delta)
        counts = (lost, gained, n - lost - gained)
        seen = [(count, rate) for count, rate in zip(counts, rates, strict=True) if count]
        return -sum(count * log(max(rate, 1e-300)) for count, rate in seen)

    bounds = (max(0.0, -delta), (1 - delta) / 2)
    rate = float(minimize_scalar(deviance, bounds=bounds, options={"xatol": 1e-12}).x)
    return n * (2 * rate + delta * (1 - delta))


def score_statistic(lost: int, gained: int, n: int, delta: float) -> float:
    return (gained - lost - n * delta) / sqrt(null_variance(lost, gained, n, delta))


class TestTango:
    def test_soft_contact_lenses(self) -> None:
        """Tango 1998, section 6.1: 1 loss of 44, lower 90% limit -0.096."""
        assert tango(1, 0, 44, 0.90).low == pytest.approx(-0.096, abs=5e-4)

    def test_airway_reactivity(self) -> None:
        """Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33:2850."""
        interval = tango(7, 1, 21)
        assert (interval.low, interval.high) == pytest.approx((-0.517, -0.026), abs=5e-4)

    def test_complete_response(self) -> None:
        """Cavo 2012 data as computed by Fagerland et al.'s R package contingencytables."""
        interval = tango(16, 6, 161)
        assert (interval.low, interval.high) == pytest.approx((-0.1240, -0.0054), abs=5e-5)

    @pytest.mark.parametrize(
        ("lost", "gained", "n"), [(3, 5, 20), (1, 0, 9), (0, 4, 7), (12, 2, 50)]
    )
    def test_ends_solve_the_score_equation(self, lost: int, gained: int, n: int) -> None:
        interval = tango(lost, gained, n)
        z = norm.ppf(0.975)
        assert score_statistic(lost, gained, n, interval.low) == pytest.approx(z, abs=1e-4)
        assert score_statistic(lost, gained, n, interval.high) == pytest.approx(-z, abs=1e-4)

    @pytest.mark.parametrize("n", [1, 2, 40, 10**9])
    def test_nothing_changed(self, n: int) -> None:
        """With no discordant pair T^2 = n |d| / (1 - |d|), so |d| = z^2 / (n + z^2)."""
        z = norm.ppf(0.975)
        interval = tango(0, 0, n)
        assert interval.high == pytest.approx(z**2 / (n + z**2), rel=1e-9, abs=1e-14)
        assert interval.low == -interval.high

    @pytest.mark.parametrize("n", [1, 5, 10**6])
    def test_everything_changed(self, n: int) -> None:
        """With all pairs lost T^2 = n (1 + d) / (1 - d) at the high end."""
        interval = tango(n, 0, n)
        z = norm.ppf(0.975)
        assert interval.low == -1.0
        assert interval.high == pytest.approx((z**2 - n) / (z**2 + n), abs=1e-12)
        assert tango(0, n, n) == Interval(-interval.high, 1.0, 0.95)

    @settings(max_examples=200, deadline=None)
    @given(paired_tables(), st.floats(0.01, 0.999))
    def test_order_and_symmetry(self, table: tuple[int, int, int], confidence: float) -> None:
        lost, gained, n = table
        interval = tango(lost, gained, n, confidence)
        swapped = tango(gained, lost, n, confidence)
        assert -1 <= interval.low <= (gained - lost) / n <= interval.high <= 1
        assert (swapped.low, swapped.high) == (-interval.high, -interval.low)
        assert tango(lost, gained, n, 0.9999).low <= interval.low + 1e-12

    @pytest.mark.parametrize(("p_lost", "p_gained"), [(0.05, 0.05), (0.02, 0.15), (0.3, 0.1)])
    def test_coverage(self, p_lost: float, p_gained: float) -> None:
        """Coverage summed over every table of 30 pairs stays near 95%."""
        n, delta, covered = 30, p_gained - p_lost, 0.0
        for lost, gained in product(range(n + 1), range(n + 1)):
            if lost + gained > n:
                continue
            ways = comb(n, lost) * comb(n - lost, gained)
            chance = ways * p_lost**lost * p_gained**gained
            chance *= (1 - p_lost - p_gained) ** (n - lost - gained)
            interval = tango(lost, gained, n)
            covered += chance * (interval.low <= delta <= interval.high)
        assert 0.93 < covered < 0.985

    @pytest.mark.parametrize(("lost", "gained", "n"), [(0, 0, 0), (-1, 0, 4), (3, 2, 4)])
    def test_impossible_tables(self, lost: int, gained: int, n: int) -> None:
        with pytest.raises(ValueError, match=rf"^{lost} .* {gained} .* {n} "):
            tango(lost, gained, n)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
    def test_impossible_confidence(self, confidence: float) -> None:
        with pytest.raises(ValueError, match=rf" {confidence}\b"):
            tango(1, 1, 4, confidence)


class TestMcNemarMidP:
    def test_published(self) -> None:
        """Bentur 2009: Fagerland et al. 2013; Cavo 2012: contingencytables."""
        assert mcnemar_midp(7, 1) == pytest.approx(0.0391, abs=5e-5)
        assert mcnemar_midp(16, 6) == pytest.approx(0.034690, abs=5e-7)

    @pytest.mark.parametrize(("lost", "gained"), [(0, 1), (3, 8), (25, 2), (5, 5), (400, 377)])
    def test_exact_p_less_one_point_probability(self, lost: int, gained: int) -> None:
        """The point probability counts in both tails of an uneven split, once in an even one."""
        exact = mcnemar(np.array([[0, lost], [gained, 0]]), exact=True).pvalue
        tails = 1 if lost == gained else 2
        half_point = binom.pmf(lost, lost + gained, 0.5) / 2
        assert mcnemar_midp(lost, gained) == pytest.approx(exact - tails * half_point, rel=1e-9)

    def test_hand_worked(self) -> None:
        assert mcnemar_midp(0, 2) == pytest.approx(1 / 4)  # 2 * (1/4) - 1/4
        assert mcnemar_midp(1, 1) == pytest.approx(3 / 4)  # 1 - (1/2) / 2
        assert mcnemar_midp(0, 0) == 1.0

    def test_impossible(self) -> None:
        with pytest.raises(ValueError, match=r"^-1 .* 3 "):
            mcnemar_midp(-1, 3)


class TestPairedOutcomes:
    def test_fields(self) -> None:
        pair = paired_outcomes(*outcomes(lost=7, gained=1, both=1, neither=12))
        assert (pair.n, pair.lost, pair.gained) == (21, 7, 1)
        assert (pair.base, pair.tuned) == pytest.approx((8 / 21, 2 / 21))
        assert pair.delta == pytest.approx(-6 / 21)
        assert pair.interval == tango(7, 1, 21)
        assert pair.lower_bound == pytest.approx(tango(7, 1, 21, 0.90).low)
        assert pair.p == mcnemar_midp(7, 1)

    def test_not_bool(self) -> None:
        with pytest.raises(ValueError, match=r"int64 .* bool"):
            paired_outcomes(np.array([1, 0]), np.array([True, False]))

    @pytest.mark.parametrize(("base", "tuned"), [((0,), (0,)), ((3,), (2,)), ((2, 2), (2, 2))])
    def test_shapes(self, base: tuple[int, ...], tuned: tuple[int, ...]) -> None:
        with pytest.raises(
            ValueError, match=rf"{re.escape(str(base))} .* {re.escape(str(tuned))} "
        ):
            paired_outcomes(np.zeros(base, dtype=np.bool_), np.zeros(tuned, dtype=np.bool_))


class TestPairedBootstrap:
    def test_agrees_with_scipy(self) -> None:
        base = np.random.default_rng(5).random(80)
        tuned = base + np.random.default_rng(0).lognormal(size=80)  # skewed, so every term counts

        def mean_difference(base: Scores, tuned: Scores, axis: int = -1) -> Scores:
            return np.asarray(np.mean(tuned - base, axis=axis))

        found = bootstrap((base, tuned), mean_difference, paired=True, method="BCa", rng=1)
        oracle = found.confidence_interval
        interval = paired_bootstrap(base, tuned, seed=2)
        assert (interval.low, interval.high) == pytest.approx((oracle.low, oracle.high), abs=0.015)

    def test_corrects_skew(self) -> None:
        """A long right tail moves both ends right of the symmetric normal interval's."""
        differences = np.random.default_rng(0).lognormal(size=80)
        interval = paired_bootstrap(np.zeros(80), differences, seed=0)
        half = norm.ppf(0.975) * differences.std() / sqrt(80)
        assert interval.low > differences.mean() - half
        assert interval.high > differences.mean() + half

    def test_equal_differences(self) -> None:
        interval = paired_bootstrap(np.arange(5.0), np.arange(5.0) + 0.1, seed=0)
        assert (interval.low, interval.high) == pytest.approx((0.1, 0.1))

    def test_coverage(self) -> None:
        """Of 300 samples of 40 uniform differences, about 95% of intervals hold the mean."""
        rng = np.random.default_rng(11)
        samples = rng.random((300, 40)) - 0.5
        intervals = [
            paired_bootstrap(np.zeros(40), sample, seed=seed, resamples=400)
            for seed, sample in enumerate(samples)
        ]
        assert 0.91 < np.mean([ends.low <= 0 <= ends.high for ends in intervals]) < 0.98

    def test_a_million_items(self) -> None:
        base = np.random.default_rng(0).random(1_000_000)
        interval = paired_bootstrap(base, np.ones(1_000_000), seed=0, resamples=20)
        assert interval.low < 1 - base.mean() < interval.high
        assert interval.high - interval.low < 4e-3 * norm.ppf(0.975) * base.std()

    def test_seed(self) -> None:
        base, tuned = np.random.default_rng(0).random((2, 30))
        first, again = (paired_bootstrap(base, tuned, seed=3, resamples=50) for _ in range(2))
        assert first == again
        assert first != paired_bootstrap(base, tuned, seed=4, resamples=50)

    def test_refused(self) -> None:
        with pytest.raises(ValueError, match=r" 1 "):
            paired_bootstrap(np.zeros(1), np.ones(1), seed=0)
        with pytest.raises(ValueError, match=r"^1 "):
            paired_bootstrap(np.array([0.0, np.nan]), np.ones(2), seed=0)


class TestPairedBootstrapMetric:
    def test_mean_as_metric(self) -> None:
        """For a mean the percentile interval is near the normal one."""
        base, tuned = np.random.default_rng(1).random((2, 400))
        interval = paired_bootstrap_metric(
            lambda items: float(base[items].mean()),
            lambda items: float(tuned[items].mean()),
            400,
            seed=0,
            resamples=4000,
        )
        centre, half = (tuned - base).mean(), norm.ppf(0.975) * (tuned - base).std() / 20
        assert (interval.low, interval.high) == pytest.approx(
            (centre - half, centre + half), abs=0.004
        )

    def test_models_see_the_same_items(self) -> None:
        seen: list[IntArray] = []

        def metric(items: IntArray) -> float:
            seen.append(items)
            return float(items.sum())

        interval = paired_bootstrap_metric(metric, metric, 10, seed=0, resamples=7)
        assert (interval.low, interval.high) == (0.0, 0.0)
        assert len(seen) == 14
        assert all(items.shape == (10,) and 0 <= items.min() <= items.max() < 10 for items in seen)

    def test_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^5 .* 0 "):
            paired_bootstrap_metric(lambda _: 0.0, lambda _: 0.0, 0, seed=0, resamples=5)
        with pytest.raises(ValueError, match=r" nan\b"):
            paired_bootstrap_metric(lambda _: 0.0, lambda _: float("nan"), 5, seed=0, resamples=5)


class TestMacroPaired:
    def test_one_section_is_its_tango_interval(self) -> None:
        found = macro_paired({"facts": outcomes(7, 1, 1, 12)})
        alone = paired_outcomes(*outcomes(7, 1, 1, 12))
        assert (found.base, found.tuned, found.delta) == (alone.base, alone.tuned, alone.delta)
        assert found.interval.low == pytest.approx(alone.interval.low)
        assert found.interval.high == pytest.approx(alone.interval.high)
        assert found.lower_bound == pytest.approx(alone.lower_bound)

    def test_sections_count_the_same(self) -> None:
        """(-6/21 + 10/1000) / 2, with each end's distances added in quadrature."""
        sections = {"facts": outcomes(7, 1, 1, 12), "arithmetic": outcomes(10, 20, 900, 70)}
        found = macro_paired(sections, 0.90)
        delta, interval = found.delta, found.interval
        small, large = tango(7, 1, 21, 0.90), tango(10, 20, 1000, 0.90)
        assert delta == pytest.approx((-6 / 21 + 0.01) / 2)
        below = sqrt((-6 / 21 - small.low) ** 2 + (0.01 - large.low) ** 2) / 2
        above = sqrt((small.high + 6 / 21) ** 2 + (large.high - 0.01) ** 2) / 2
        assert (interval.low, interval.high) == pytest.approx((delta - below, delta + above))
        assert interval.confidence == 0.90
        assert (found.base, found.tuned) == pytest.approx(
            ((8 / 21 + 0.91) / 2, (2 / 21 + 0.92) / 2)
        )
        assert macro_paired(sections).lower_bound == pytest.approx(interval.low)

    def test_equal_sections_narrow_like_the_root(self) -> None:
        one = macro_paired({"0": outcomes(5, 5, 50, 40)}).interval
        four = macro_paired({str(k): outcomes(5, 5, 50, 40) for k in range(4)}).interval
        assert four.high - four.low == pytest.approx((one.high - one.low) / 2)

    def test_coverage(self) -> None:
        rng = np.random.default_rng(3)
        rates = [(60, 0.02, 0.06), (25, 0.1, 0.1), (100, 0.05, 0.01)]
        truth = np.mean([gained - lost for _, lost, gained in rates])
        covered = []
        for _ in range(400):
            tables = [rng.multinomial(n, [p, q, 0.5, 0.5 - p - q]) for n, p, q in rates]
            sections = {str(k): outcomes(*map(int, table)) for k, table in enumerate(tables)}
            interval = macro_paired(sections).interval
            covered.append(interval.low <= truth <= interval.high)
        assert 0.92 < np.mean(covered) < 0.985

    def test_no_sections(self) -> None:
        with pytest.raises(ValueError, match=r"^0 sections"):
            macro_paired({})


class TestDesign:
    def test_no_discordance_is_the_interval_of_no_change(self) -> None:
        """n = z^2 (1 - m) / m: the n at which tango(0, 0, n, 0.90).low reaches -m."""
        needed = items_needed(0.0, 0.0, 0.02)
        assert needed == 133  # 2.7055 * 0.98 / 0.02 = 132.57
        assert tango(0, 0, 133, 0.90).low > -0.02 > tango(0, 0, 132, 0.90).low

    def test_superiority_is_the_mcnemar_sample_size(self) -> None:
        """Connor 1987, Biometrics 43:207-211: (z_a sqrt(d) + z_b sqrt(d - D^2))^2 / D^2."""
        spread = norm.ppf(0.95) * sqrt(0.3) + norm.ppf(0.8) * sqrt(0.3 - 0.01)
        assert items_needed(0.1, 0.3, 0.0) == int(np.ceil((spread / 0.1) ** 2))

    @pytest.mark.parametrize(
        ("delta", "discordance", "margin"), [(0.05, 0.3, 0.02), (-0.03, 0.2, 0.05), (0.2, 0.3, 0.1)]
    )
    def test_nam(self, delta: float, discordance: float, margin: float) -> None:
        """(z_a sqrt(v0) + z_b sqrt(v1))^2 / (delta + margin)^2, v0 found by search."""
        rates = ((discordance - delta) / 2, (discordance + delta) / 2)
        null = norm.ppf(0.95) * sqrt(null_variance(*rates, 1, -margin))
        true = norm.ppf(0.8) * sqrt(discordance - delta**2)
        expected = ((null + true) / (delta + margin)) ** 2
        needed = items_needed(delta, discordance, margin)
        assert needed is not None
        assert expected - 0.01 <= needed <= expected + 1.01

    @pytest.mark.parametrize(("delta", "discordance"), [(0.0, 0.1), (0.01, 0.2), (-0.01, 0.05)])
    def test_reaches_its_power(self, delta: float, discordance: float) -> None:
        margin, rng = 0.04, np.random.default_rng(0)
        n = items_needed(delta, discordance, margin)
        assert n is not None
        rates = [(discordance - delta) / 2, (discordance + delta) / 2, 1 - discordance]
        tables = rng.multinomial(n, rates, size=1500)
        bounds = [tango(int(lost), int(gained), n, 0.90).low for lost, gained, _ in tables]
        assert np.mean(np.array(bounds) > -margin) == pytest.approx(0.8, abs=0.04)

    @settings(deadline=None)
    @given(st.integers(1, 10**7), st.floats(0, 1), st.floats(0.5, 0.95), st.floats(0.01, 0.2))
    def test_smallest_margin_inverts(
        self, n: int, discordance: float, power: float, alpha: float
    ) -> None:
        margin = smallest_margin(n, discordance, power, alpha)
        if margin is None or margin >= 1 - 1e-9:
            assert n < 10
            return
        needed = items_needed(0.0, discordance, margin, power, alpha)
        assert needed is not None
        assert abs(needed - n) <= 1

    def test_unreachable(self) -> None:
        assert items_needed(-0.02, 0.1, 0.02) is None
        assert items_needed(0.0, 0.1, 0.0) is None
        assert smallest_margin(1, 1.0, power=0.99) is None

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ((0.2, 0.1, 0.05), "delta 0.2, discordance 0.1"),
            ((0.0, 1.5, 0.05), "discordance 1.5"),
            ((0.0, 0.1, 1.5), "margin 1.5"),
            ((0.0, 0.1, 0.05, 1.0), "power 1.0"),
            ((0.0, 0.1, 0.05, 0.8, 0.5), "alpha 0.5"),
        ],
    )
    def test_impossible(self, arguments: tuple[float, ...], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            items_needed(*arguments)

    def test_no_items(self) -> None:
        with pytest.raises(ValueError, match=r"\b0\b"):
            smallest_margin(0, 0.1)
