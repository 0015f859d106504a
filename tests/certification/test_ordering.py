"""Which candidates are tested and in which order, by hand and by brute force."""

from pathlib import Path

import numpy as np
import pytest

from burnish.certification.budgets import Budgets
from burnish.certification.forecast import Forecast
from burnish.certification.ordering import (
    as_frontier,
    frontier,
    order_of_testing,
    risk,
    smoothed_risks,
)
from burnish.runs.candidates import Candidate, Frontier
from burnish.runs.directory import Manifest, RunDirectory

BUDGETS = Budgets(2.0, text_loss=10.0)
OUTLOOK = Forecast([], BUDGETS)


def candidate(
    scale: float,
    gain: float | None,
    drop: float | None,
    *,
    high: float | None = None,
    text: float | None = None,
    attempt: str = "",
    weights: str = "ab",
) -> Candidate:
    return Candidate(
        weights * 32,
        step=40,
        scale=scale,
        gain=gain,
        drop=drop,
        drop_range=None if high is None or drop is None else (2 * drop - high, high),
        text_loss=text,
        attempt=attempt,
    )


def scales(found: list[Candidate]) -> list[float]:
    return [one.scale for one in found]


def test_risk_is_the_share_of_the_budget_used_most() -> None:
    assert risk(candidate(1, 5, 1.0), BUDGETS) == 0.5
    assert risk(candidate(1, 5, 1.0, high=3.0), BUDGETS) == 1.5
    assert risk(candidate(1, 5, 1.0, text=8.0), BUDGETS) == 0.8
    assert risk(candidate(1, 5, 1.0, text=8.0), Budgets(2.0)) == 0.5
    assert risk(candidate(1, 5, None, text=8.0), BUDGETS) is None


def test_frontier_by_hand() -> None:
    rows = [
        candidate(0.2, 10, 0.2),
        candidate(0.4, 8, 0.4),  # less gain for more risk
        candidate(0.6, 20, 0.6),
        candidate(0.7, 20, 0.7),  # no more gain for more risk
        candidate(0.8, 20, 0.6),  # the same twice
        candidate(1.0, 30, 3.0),
        candidate(0.1, 0, -1.0),  # the base has as much
        candidate(1.1, None, None),  # never asked
        candidate(1.2, 40, None),
    ]
    assert scales(frontier(rows, BUDGETS)) == [0.2, 0.6, 1.0]
    assert frontier([], BUDGETS) == []


def test_the_safest_checkpoint_is_tested_first_whatever_its_scale() -> None:
    rows = [
        candidate(scale, gain, drop, weights=weights)
        for scale, gain, drop, weights in [
            (1.0, 30, 0.1, "aa"),
            (0.5, 20, 0.05, "bb"),
            (0.2, 10, 0.4, "cc"),
        ]
    ]
    assert scales(frontier(rows, BUDGETS)) == [0.5, 1.0]
    assert scales(frontier(rows[::-1], BUDGETS)) == [0.5, 1.0]


def test_of_one_adapter_the_smaller_scale_is_the_safer_whatever_probe_says() -> None:
    near = [candidate(1.0, 79.7, 1.53, high=4.11), candidate(0.8, 74.6, 1.58, high=4.14)]
    assert scales(order_of_testing(near, OUTLOOK)) == [0.8, 1.0]
    risks = smoothed_risks(near, BUDGETS)
    assert [risks[one.key] for one in near] == pytest.approx([(4.11 + 4.14) / 2 / 2.0] * 2)
    # Another checkpoint is none of it, and what PROBE tells apart stays as it is.
    other = [candidate(0.9, 60, 1.0, weights="cd"), candidate(0.4, 50, 0.2), *near]
    found = smoothed_risks(other, BUDGETS)
    assert [found[one.key] for one in other[:2]] == pytest.approx([0.5, 0.1])
    assert scales(frontier(other, BUDGETS)) == [0.4, 0.9, 0.8, 1.0]
    # A smaller scale that gained as much stands for both.
    assert scales(frontier([near[0], candidate(0.8, 79.7, 1.58, high=4.14)], BUDGETS)) == [0.8]


def test_frontier_against_brute_force() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        rows = [
            candidate(s / 10, float(g), float(d), text=float(t), weights=f"{s:02}")
            for s, (g, d, t) in enumerate(rng.normal((5, 1, 5), (6, 1, 5), (12, 3)))
        ]

        def beaten(one: Candidate, others: list[Candidate] = rows) -> bool:
            mine, gain = risk(one, BUDGETS), one.gain
            assert mine is not None
            assert gain is not None
            return gain <= 0 or any(
                other is not one
                and (risk(other, BUDGETS) or 0) <= mine
                and (other.gain or 0) >= gain
                for other in others
            )

        found = frontier(rows, BUDGETS)
        assert {id(one) for one in found} == {id(one) for one in rows if not beaten(one)}
        risks = [risk(one, BUDGETS) or 0 for one in found]
        assert risks == sorted(risks)


def test_thinned_so_that_each_next_one_gains_something() -> None:
    rows = [candidate(s, g, s) for s, g in [(0.1, 5), (0.2, 9), (0.3, 91), (0.4, 99), (0.5, 100)]]
    # Steps of 10 from 100 down: 91 to 100 is one step, 5 and 9 another; the safest of each stays.
    assert scales(order_of_testing(rows, OUTLOOK, matters=0.1)) == [0.1, 0.3]
    assert scales(order_of_testing(rows, OUTLOOK, matters=0.05)) == [0.1, 0.2, 0.3, 0.4]
    assert scales(order_of_testing(rows, OUTLOOK, matters=0)) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert order_of_testing([], OUTLOOK) == []
    with pytest.raises(ValueError, match=r"\b2\b"):
        order_of_testing(rows, OUTLOOK, matters=2)


def test_frontier_on_disk(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Manifest("run", "trained", {}, {}))
    rows = [candidate(0.5, 10, 0.5, high=1.5), candidate(1.0, 20, 3.0), candidate(0.7, 5, None)]
    kept = as_frontier(rows, [rows[1], rows[0]], rows[0])
    assert kept == Frontier(tuple(rows), (1, 0), 0)
    run.write_frontier(kept)
    assert run.frontier() == kept
    assert run.frontier().candidates[0].drop_range == (-0.5, 1.5)
    run.write_frontier(as_frontier(rows, [], None))
    assert run.frontier().released is None


def test_a_key_is_one_model() -> None:
    one = candidate(0.5, 1, 1)
    assert one.key == candidate(0.5, 2, 2).key
    assert one.key != candidate(0.6, 1, 1).key
    assert one.label == "step 40 at scale 0.5"
    assert Candidate("a", 3, 1.0, slope=0.2).label == "step 3 at scale 1, slope 0.2"


def test_without_a_measured_gain_more_of_the_adapter_is_more() -> None:
    rows = [
        candidate(scale, None, drop, weights=weights)
        for scale, drop, weights in [(1.0, 3.0, "aa"), (0.5, 0.5, "bb"), (0.2, 0.8, "cc")]
    ]
    assert scales(frontier(rows, BUDGETS)) == [0.5, 1.0]
    assert scales(order_of_testing(rows, OUTLOOK)) == [0.5, 1.0]
