"""Real processes, really killed: a continued run ends as if nobody had stopped it."""

import importlib
import random
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

BENCH = Path(__file__).parents[2] / "bench"
AIMS = {
    "sft": ("checkpoint", "any"),
    "dpo": ("any", "validation"),
    "grpo": ("preflight", "checkpoint"),
}


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bench, which the processes import under that name too."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("interrupt")


@pytest.mark.parametrize("objective", AIMS)
def test_killed_twice_a_run_ends_as_if_nobody_had_stopped_it(
    objective: str, interrupt: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    case = interrupt.make_case(objective, tiny_folder, tmp_path / objective, rows=10, epochs=4)
    interrupt.straight(case)
    chance = random.Random(4)
    aims = [interrupt.Aim(chance.uniform(0, 0.6), doing) for doing in AIMS[objective]]
    outcome = interrupt.interrupted(case, "killed", aims, chance)
    assert len(outcome.phases) == 2
    assert outcome.lost is None
    assert outcome.differences == []
    # Dropout, noise and sampling did something, so equal weights are no accident.
    learnt = load_file(case.run("straight") / "adapter" / "adapter_model.safetensors")
    assert all(value.any() for value in learnt.values())
