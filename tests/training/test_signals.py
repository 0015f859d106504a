"""Real processes, really killed: a continued run ends as if nobody had stopped it."""

import importlib
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from burnish.training import signals
from burnish.training.signals import stop_requests

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


def test_without_a_thread_that_answers_the_handler_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, whose process must not end."""
    before = signal.getsignal(signal.SIGINT)
    with stop_requests(lambda: "finishing step 8") as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)  # at once, so it is the same request
        monkeypatch.setattr(signals, "SAME_REQUEST", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == "finishing step 8\n"
    assert signal.getsignal(signal.SIGINT) == before
