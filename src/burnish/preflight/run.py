"""Runs all checks in order on a few rows, and restores the model exactly afterwards."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish.errors import PreflightError
from burnish.preflight.base import Check, Subject
from burnish.preflight.checkpoints import check_reloaded_and_merged, check_saved_equals_resumed
from burnish.preflight.gradients import check_accumulation, check_trunk
from burnish.preflight.rows import check_every_row_trains, check_stop_token_trained
from burnish.progress import counts_to
from burnish.training.snapshot import restored_afterwards

# Longer rows reveal nothing that shorter ones do not, and take minutes on a CPU.
_TOKENS = 512


@counts_to("preflight")
def run_checks(subject: Subject) -> list[Check]:
    """Runs the checks; weights, random states and the optimizer are restored afterwards."""
    checks = [check_every_row_trains(subject), check_stop_token_trained(subject)]
    items = pick_items(subject.items)
    with (
        tempfile.TemporaryDirectory(prefix="burnish-preflight-") as name,
        restored_afterwards(subject.loop.model, subject.objective.carried, Path(name)),
    ):
        folder = Path(name)
        collected = subject.objective.collect(subject.network, items, 0)
        checks.append(check_accumulation(subject, collected))
        checks.append(check_trunk(subject, collected))
        checks.append(check_saved_equals_resumed(subject, items, folder))
        (folder / "adapter").mkdir()
        checks += check_reloaded_and_merged(subject, collected, folder / "adapter")
    return checks


def raise_on_failure(checks: Sequence[Check]) -> None:
    """Raises an error for the first check that failed.

    Raises:
        PreflightError: names the first difference and the remedy.
    """
    for check in checks:
        if check.passed is False:
            raise PreflightError(
                f"the preflight check `{check.name}` failed: {check.seen}",
                check.remedy,
                code=check.code,
                check=check.name,
                **check.fields,
            )


def pick_items(items: Sequence[Any]) -> list[Any]:
    """Returns the shortest item and one of middle size."""
    # Objectives that sample answers at each step have no trained tokens yet.
    learnt = sorted([i for i in items if i.learnt] or items, key=lambda item: item.size)
    short = [item for item in learnt if item.size <= _TOKENS] or learnt[:2]
    middle = max(1, len(short) // 2)
    return [*short[:1], *short[middle : middle + 1]]
