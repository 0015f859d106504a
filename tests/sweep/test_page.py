"""The page of a search holds every trial, and draws those with a drop."""

from pathlib import Path

from burnish.sweep.page import TrialRow, write_trials

TRIALS = [
    TrialRow(0, "best", {"lora.rank": 8}, 0.5, (-1.0, 1.0, 3.0)),
    TrialRow(1, "outside the budget", {"lora.rank": 16}, 0.25, (2.0, 4.0, 6.0)),
    TrialRow(2, "failed: the loss became nan <", {"lora.rank": 32}, None, None),
]


def test_every_trial_is_in_the_table_and_the_finished_ones_are_drawn(tmp_path: Path) -> None:
    page = write_trials(tmp_path, "mine", TRIALS, 2.0).read_text()
    assert page.count('<th scope="row">') == 3
    assert "+4.0" in page
    assert "+2.0 to +6.0" in page
    assert "nan &lt;" in page
    # Drops from -1 to 6 fill the width: the budget of 2 lies 3/7 along it, trial 0's dot 2/7.
    assert "M42.86 0V100" in page
    assert "M28.57 " in page
    assert page.count(" dot") == 2
    assert "trial 1 (lora.rank=16), drop in points 4: 0.25" in page


def test_without_a_budget_there_is_no_drawing(tmp_path: Path) -> None:
    page = write_trials(tmp_path, "mine", [TrialRow(0, "done", {}, 0.5, None)], None).read_text()
    assert "<svg" not in page
    assert "0.5000" in page
