"""The pure part of bench/certificate.py on made-up answers whose truth is known."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.certification.budgets import Budgets
from burnish.runs.candidates import Candidate

SCALES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    return importlib.import_module("certificate")


@pytest.fixture
def answers(bench: Any) -> Any:
    """Gain and drop both rise with the scale; the budget of 2 is passed between 0.6 and 0.8."""
    rng = np.random.default_rng(0)

    def rows(n: int, right: float, lost: float, gained: float) -> Any:
        drawn, noise = rng.random(n), rng.random(n)
        base = drawn < right
        found = [np.where(base, noise > s * lost, noise < s * gained) for s in SCALES]
        return np.array([base, *found])

    sections = {str(i): rows(300, 0.6, 0.1, 0.075) for i in range(4)}
    texts = {
        "prose": np.array([np.full(80, 3.0), *(3 + rng.normal(0.05 * s, 0.05, 80) for s in SCALES)])
    }
    return bench.Answers(sections, texts, rows(200, 0.2, 0.05, 0.6))


CANDIDATES = [Candidate("ab", 12, scale) for scale in SCALES]


def test_truth_is_counted(bench: Any) -> None:
    base = np.array([True, True, True, False])
    answers = bench.Answers(
        {"a": np.array([base, [True, True, False, False]]), "b": np.array([base, base])},
        {},
        np.array([[False, False], [True, False]]),
    )
    assert answers.drops().tolist() == [12.5]
    assert answers.gains().tolist() == [50.0]
    assert answers.inside(Budgets(12.5)).tolist() == [False]
    assert answers.inside(Budgets(12.6)).tolist() == [True]


def test_a_draw_keeps_pairs_and_shares(bench: Any, answers: Any) -> None:
    drawn = bench.draw(answers, np.random.default_rng(0))
    assert drawn.probe.sections["0"].shape == (7, 90)
    assert drawn.cert.sections["0"].shape == (7, 210)
    assert drawn.everything.sections["0"].shape == (7, 300)
    # Every drawn column is a column of the answers: base and candidates stay together.
    whole = {column.tobytes() for column in answers.sections["0"].T}
    assert {column.tobytes() for column in drawn.cert.sections["0"].T} <= whole


def test_the_gate_is_students_interval(bench: Any) -> None:
    damages = np.array([0.0, 1.0, 1.0, 0.0])
    # Mean 0.5, standard error 0.5774 / 2, Student's t at 3 degrees, 97.5%: 3.18245.
    assert bench.damage_end(damages) == pytest.approx(0.5 + 3.18245 * 0.57735 / 2, rel=1e-5)


def test_ours_errs_within_its_level_where_the_estimate_does_not(bench: Any, answers: Any) -> None:
    budgets, draws = Budgets(2.0), 120
    truly = answers.inside(budgets)
    assert 0 < truly.sum() < len(truly)
    found = bench.compare(answers, CANDIDATES, budgets, resample=draws)
    shares = {name: tally.over / draws for name, tally in found.items()}
    assert shares["ours"] <= 0.06
    assert shares["point"] > 0.15
    assert found["ours"].gain > found["bonf cert"].gain
    assert found["ours"].base < draws


def test_a_budget_of_prose_counts_for_all(bench: Any, answers: Any) -> None:
    tight = Budgets(50.0, text_loss=0.01)
    assert not answers.inside(tight).any()
    found = bench.compare(answers, CANDIDATES, tight, resample=20)
    assert found["ours"].base == 20
    assert found["gate"].base == 20
