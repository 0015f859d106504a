"""Two real processes learn what one learns; no stop, kill or other number of them changes that."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

import burnish
from burnish.errors import InterruptedRunError, RecipeError, WorkerLostError
from burnish.models.branches import Network
from burnish.runs.directory import RunDirectory
from burnish.training.batches import Batches
from burnish.training.checkpoint import saved_steps
from burnish.training.data_parallel import Team
from burnish.training.fsdp import Sharded
from burnish.training.objectives.base import Loss, Means
from burnish.training.signals import stopped_by
from tests.refused import refused

WORKERS = {"training.workers": 2}
WORDS = ("tent", "parcel", "red", "green", "torn")


@pytest.fixture
def trained(tiny_folder: Path, tmp_path: Path) -> Callable[..., RunDirectory]:
    """A tiny run, trained; recipe values by dotted keys."""
    rows = [
        {
            "prompt": " ".join(WORDS[: 1 + i % 5]),
            "chosen": f"{WORDS[i % 4]} {i}",
            "rejected": " ".join(WORDS[i % 3 :]),
        }
        for i in range(22)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "model": str(tiny_folder),
        "data": {"train": str(data)},
        "output": str(tmp_path),
        "training": {"preflight": False, "epochs": 2, "batch_size": 5, "gradient_accumulation": 2},
        "evaluate": {"general": None},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(values))

    def train(name: str, **changes: Any) -> RunDirectory:
        return burnish.train(recipe, quiet=True, name=name, **changes)

    return train


RATE = {"training.learning_rate": 0.002}


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_two_processes_learn_what_one_learns(
    objective: str, trained: Callable[..., RunDirectory]
) -> None:
    """A batch of the last step has a single row, so the second process has nothing of it."""
    given = {"objective": objective, **(RATE if objective == "sft" else {})}
    one = trained("one", **given)
    two = trained("two", **given, **WORKERS)
    assert_same(two, one)
    assert two.manifest().recipe["training"]["workers"] == 2
    lines = [
        [(e["step"], e["learnt_tokens"], e["tokens"]) for e in run.events("train")]
        for run in (one, two)
    ]
    assert lines[0] == lines[1]
    sizes = [(e["step"], e["loss"]) for e in one.events("validation")]
    assert [e["step"] for e in two.events("validation")] == [step for step, _ in sizes]


@pytest.mark.parametrize(
    ("objective", "method"),
    [("sft", "lora"), ("dpo", "lora"), ("sft", "full"), ("dpo", "full"), ("sft", "last-n")],
)
def test_kept_in_parts_they_learn_the_same(
    objective: str,
    method: str,
    trained: Callable[..., RunDirectory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One is killed and the run goes on. The last step has one row, the second process none."""
    layers: list[tuple[int, int]] = []
    going_along = Sharded.sync_passes

    def look(team: Sharded, network: Network, passes: int) -> None:
        """Numbers in the layers and their gradients: those in this process, and all."""
        kept = [p for p in network.model.parameters() if isinstance(p, DTensor)]
        kept += [p.grad for p in kept if isinstance(p.grad, DTensor)]
        layers.append((sum(p.to_local().numel() for p in kept), sum(p.numel() for p in kept)))
        going_along(team, network, passes)

    monkeypatch.setattr(Sharded, "sync_passes", look)
    # Each step of Adam moves a weight by the rate, however small its gradient and its rounding.
    rate = {"training.learning_rate": 2e-4} if method == "full" else RATE
    given = {"objective": objective, "method": method, "last_n.layers": 1, **rate}
    given |= {"training.max_grad_norm": 0.1}  # every step is shortened
    one = trained("one", **given)
    assert not layers
    parts = {**WORKERS, "training.fsdp": True, "training.checkpoints": 12}
    with refused("worker_lost", WorkerLostError):
        trained("two", on_event=kill_other, **given, **parts)
    two = trained("two", resume=True, **given, **parts)
    assert_same(two, one)
    losses = [[e["loss"] for e in run.events("validation")] for run in (two, one)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert {2 * part for part, _ in layers} == {whole for _, whole in layers} != {0}
    norms = [[e["gradient_norm"] for e in run.events("train")] for run in (two, one)]
    assert min(norms[1]) > 0.1
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize(
    ("key", "value"),
    [("training.workers", 1), ("method", "qlora"), ("objective", "reward")],
)
def test_what_cannot_be_kept_in_parts_is_refused(
    key: str, value: Any, trained: Callable[..., RunDirectory]
) -> None:
    with refused("sharded_unsupported", RecipeError, key=key, value=value):
        trained("no", **{**WORKERS, "training.fsdp": True, key: value})


def joined() -> list[psutil.Process]:
    """The other processes of a training that this one leads."""
    children = psutil.Process().children()
    return [child for child in children if "burnish.training.worker" in child.cmdline()]


def kill_other(phase: str, values: dict[str, Any]) -> None:
    """Listens to a training, and ends the second process after the first checkpoint."""
    if (phase, values["step"]) == ("checkpoint", 1):
        (other,) = joined()
        other.kill()


def test_killed_stopped_and_gone_on_with_by_another_number(
    trained: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    straight = trained("straight", **RATE)
    checkpoints = {"training.checkpoints": 12, **RATE}

    with refused("worker_lost", WorkerLostError):
        trained("two", on_event=kill_other, **checkpoints, **WORKERS)
    assert not joined()
    folder = tmp_path / "two" / "checkpoints"
    assert saved_steps(folder) == [1]
    asked = threading.Event()

    def stop(phase: str, values: dict[str, Any]) -> None:
        if (phase, values["step"]) == ("train", 2):
            asked.set()

    with pytest.raises(InterruptedRunError, match="step 2 of"), stopped_by(asked):
        trained("two", on_event=stop, resume=True, **checkpoints, **WORKERS)
    assert saved_steps(folder) == [1, 2]
    assert_same(trained("two", resume=True, **checkpoints), straight)


@pytest.mark.parametrize(
    ("objective", "code"),
    [("grpo", "objective_collects"), ("kto", "objective_not_additive")],
)
def test_what_cannot_be_shared_is_refused(
    objective: str, code: str, trained: Callable[..., RunDirectory]
) -> None:
    with refused(code, RecipeError, key="training.workers", value=2, objective=objective):
        trained("no", objective=objective, **WORKERS)


def test_means_of_shares_are_those_of_the_whole() -> None:
    """Losses 1 + 2 over 4 units; a metric of 3 / 2 and 5 / 6 is 8 / 8; one share has no `rare`."""
    first, second = Means(), Means()
    first.add(Loss(torch.tensor(1.0), {"metric": (torch.tensor(3.0), 2.0)}), 4.0)
    second.add(
        Loss(
            torch.tensor(2.0),
            {"metric": (torch.tensor(5.0), 6.0), "rare": (torch.tensor(7.0), 1.0)},
        ),
        4.0,
    )
    whole = Means()
    whole.include(first)
    whole.include(second)
    assert whole.values() == {"loss": 0.75, "metric": 1.0, "rare": 7.0}


def test_shares_of_all_are_the_batch() -> None:
    passes = [[1, 2, 3, 4, 5], [6]]
    assert Team(0, 2).shares(passes) == [[1, 3, 5], [6]]
    assert Team(1, 2).shares(passes) == [[2, 4]]
    assert Team().shares(passes) == passes


def test_noise_is_the_steps_and_the_ranks_own() -> None:
    """So a resumed step draws what it drew before, whoever saved the checkpoint."""
    batches = Batches({}, 1, 1, 1.0, seed=5)

    def drawn(team: Team, step: int) -> float:
        team.seed(batches, step)
        return float(torch.rand(()))

    places = [(0, 2, 0), (1, 2, 0), (0, 2, 1), (1, 2, 1), (0, 3, 0)]
    found = [drawn(Team(rank, size), step) for rank, size, step in places]
    assert [drawn(Team(rank, size), step) for rank, size, step in places] == found
    assert len({*found, drawn(Team(), 0), drawn(Team(), 0)}) == 7  # one alone goes on


def assert_same(found: RunDirectory, expected: RunDirectory) -> None:
    wanted, adapter = (
        {
            n: value
            for file in run.adapter.glob("*.safetensors")
            for n, value in load_file(file).items()
        }
        for run in (expected, found)
    )
    assert adapter.keys() == wanted.keys()
    assert max(float((adapter[n] - value).abs().max()) for n, value in wanted.items()) <= 1e-5
    assert all(value.any() for value in wanted.values())
    losses = [[line["loss"] for line in run.events("train")] for run in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
