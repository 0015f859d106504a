"""The loop's truths: accumulated = one batch, resumed = straight, the best weights come back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.errors import DivergedError, InterruptedRunError, RunError
from burnish.models.adapt import add_lora, save_weights
from burnish.models.branches import Row
from burnish.training import checkpoint
from burnish.training.batches import Batches
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.base import Loss
from burnish.training.objectives.sft import Sft
from tests.refused import refused


def tiny(seed: int = 0, dropout: float = 0.0) -> Any:
    """Always the same base; the seed is the adapter's."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return add_lora(
        LlamaForCausalLM(config),
        rank=4,
        alpha=8,
        dropout=dropout,
        target_modules="all-linear",
        seed=seed,
    )


def rows(count: int = 24) -> list[Row]:
    chance = torch.Generator().manual_seed(3)
    made = []
    for index in range(count):
        length = 4 + index % 5
        tokens = [1, 2, 3, *torch.randint(4, 61, (length,), generator=chance).tolist()]
        made.append(Row(tokens, [0.0] * 4 + [1.0] * (length - 1)))
    return made


def loop(folder: Path, model: Any = None, **changes: Any) -> tuple[Loop, list[tuple[str, Any]]]:
    events: list[tuple[str, Any]] = []
    batches = Batches(
        {"train": rows()},
        changes.pop("batch_size", 4),
        changes.pop("accumulation", 1),
        changes.pop("epochs", 2),
        seed=changes.pop("seed", 0),
    )
    objective = changes.pop("objective", Sft())
    validation = changes.pop("validation", {"validation": rows(6)})
    dropout = changes.pop("dropout", 0.0)
    settings = Settings(**{"learning_rate": 1e-2, **changes})
    made = Loop(
        model or tiny(dropout=dropout),
        batches,
        objective,
        settings,
        validation,
        folder,
        lambda phase, values: events.append((phase, values)),
    )
    return made, events


def same_weights(found: Any, expected: Any) -> None:
    for name, value in weights(expected).items():
        assert torch.equal(weights(found)[name], value), name


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_loss_falls(tmp_path: Path) -> None:
    made, events = loop(tmp_path, epochs=30, learning_rate=3e-2, validation={})
    made.run()
    losses = [values["loss"] for phase, values in events if phase == "train"]
    assert losses[-1] < 0.8 * losses[0]


def test_accumulated_equals_one_batch(tmp_path: Path) -> None:
    whole, _ = loop(tmp_path / "whole", batch_size=24, epochs=3, evaluations=0)
    parts, _ = loop(tmp_path / "parts", batch_size=5, accumulation=5, epochs=3, evaluations=0)
    whole.run()
    parts.run()
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(weights(parts.model)[name], value, atol=2e-5, rtol=1e-4)


def test_resumed_is_bit_identical(tmp_path: Path) -> None:
    straight, _ = loop(tmp_path / "straight")
    straight.run()
    broken, events = loop(tmp_path / "broken")
    original = broken.listen

    def stop_at_five(phase: str, values: dict[str, Any]) -> None:
        original(phase, values)
        if phase == "train" and values["step"] == 5:
            raise KeyboardInterrupt

    broken.listen = stop_at_five
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again, _ = loop(tmp_path / "broken", model=tiny(seed=9))
    again.run(resume=True)
    assert any(phase == "checkpoint" for phase, _ in events)
    same_weights(again.model, straight.model)


def test_signal_writes_a_checkpoint(tmp_path: Path) -> None:
    import os
    import signal

    made, _ = loop(tmp_path)
    original = made.listen

    def terminate(phase: str, values: dict[str, Any]) -> None:
        original(phase, values)
        if phase == "train" and values["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    made.listen = terminate
    with pytest.raises(InterruptedRunError, match="step 2 of 12"):
        made.run()
    assert checkpoint.saved_steps(tmp_path)[-1] == 2


def test_early_stopping_restores_the_best(tmp_path: Path) -> None:
    made, events = loop(tmp_path, epochs=30, learning_rate=0.05, evaluations=30, patience=2)
    progress = made.run()
    losses = {v["step"]: v["loss"] for phase, v in events if phase == "validation"}
    assert progress.stopped
    assert progress.best_step == min(losses, key=lambda step: losses[step])
    best = tmp_path / f"step-{progress.best_step}"
    fresh = tiny(seed=5)
    checkpoint.load_weights(fresh, best)
    for name, value in weights(made.model).items():
        assert torch.equal(weights(fresh)[name], value)


def test_loss_that_is_no_number_ends_with_a_sentence(tmp_path: Path) -> None:
    class Broken(Sft):
        def loss(self, network: Any, items: Any) -> Loss:
            return Loss(super().loss(network, items).total * float("nan"))

    made, _ = loop(tmp_path, objective=Broken())
    with refused("loss_not_finite", DivergedError, loss="nan", step=1) as caught:
        made.run()
    assert "nan" in str(caught.value)


@pytest.mark.parametrize("name", ["optimizer.pt", "random.pt"])
def test_full_disk_ends_with_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = loop(tmp_path)

    def full(model: Any, folder: Path) -> None:
        save_weights(model, folder)
        (folder / name).symlink_to("/dev/full")

    made.run()
    before = checkpoint.saved_steps(tmp_path)
    monkeypatch.setattr(checkpoint, "save_weights", full)
    again, _ = loop(tmp_path, epochs=4)
    with refused("disk_full", RunError, path=str(tmp_path)):
        again.run()
    assert checkpoint.saved_steps(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


def test_out_of_memory_ends_with_a_sentence(tmp_path: Path) -> None:
    class Hungry(Sft):
        def loss(self, network: Any, items: Any) -> Loss:
            raise torch.OutOfMemoryError("no room")

    made, _ = loop(tmp_path, objective=Hungry())
    with refused("out_of_memory", step=1):
        made.run()


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "half the weights": ("adapter_model.safetensors", half, "cut off"),
    "no weights": ("adapter_model.safetensors", Path.unlink, "no weights"),
    "half an optimizer": ("optimizer.pt", half, "optimizer.pt is cut off"),
    "a flipped bit": ("optimizer.pt", flipped, "optimizer.pt is damaged"),
    "no optimizer": ("optimizer.pt", Path.unlink, "optimizer.pt is missing"),
    "no progress": ("progress.json", Path.unlink, "progress.json is missing"),
    "half the progress": ("progress.json", half, "progress.json is cut off"),
    "empty random states": ("random.pt", lambda path: path.write_bytes(b""), "random.pt is cut"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_named_and_gone_around(damage: str, tmp_path: Path) -> None:
    name, spoil, said = DAMAGES[damage]
    straight, _ = loop(tmp_path, dropout=0.1)
    straight.run()
    assert checkpoint.saved_steps(tmp_path)[-2:] == [9, 12]
    spoil(tmp_path / "step-12" / name)
    again, events = loop(tmp_path, model=tiny(seed=9, dropout=0.1))
    again.run(resume=True)
    phase, told = events[0]
    assert (phase, told["step"], list(told["damaged"])) == ("resumed", 9, ["step-12"])
    assert said in told["damaged"]["step-12"]
    assert [v["step"] for phase, v in events if phase == "train"] == [10, 11, 12]
    same_weights(again.model, straight.model)
    assert checkpoint.damage(tmp_path / "step-12") is None


def test_without_a_whole_checkpoint_the_run_starts_again(tmp_path: Path) -> None:
    straight, _ = loop(tmp_path, dropout=0.1)
    straight.run()
    for step in (9, 12):
        half(tmp_path / f"step-{step}" / "optimizer.pt")
    again, events = loop(tmp_path, dropout=0.1)
    again.run(resume=True)
    assert events[0][1]["step"] == 0
    assert list(events[0][1]["damaged"]) == ["step-12", "step-9"]
    assert [v["step"] for phase, v in events if phase == "train"] == list(range(1, 13))
    same_weights(again.model, straight.model)


def test_a_run_whose_best_weights_are_damaged_goes_back_before_them(tmp_path: Path) -> None:
    """Otherwise it would train to the end and then have nothing to put back."""
    made, _ = loop(tmp_path)
    made.run()
    progress = tmp_path / "step-12" / "progress.json"
    progress.write_text(progress.read_text().replace('"best_step": 12', '"best_step": 6'))
    half(tmp_path / "step-6" / "adapter_model.safetensors")
    assert "of step-6 is cut off" in str(checkpoint.damage(tmp_path / "step-12"))


def test_a_checkpoint_that_cannot_be_read_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = loop(tmp_path)
    made.run()

    def no_room(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", no_room)
    again, _ = loop(tmp_path)
    step = str(tmp_path / "step-12")
    with refused("checkpoint_unreadable", RunError, path=step) as caught:
        again.run(resume=True)
    assert "can't allocate memory" in str(caught.value)
    assert checkpoint.saved_steps(tmp_path) == [3, 6, 9, 12]


def test_the_two_newest_can_be_resumed(tmp_path: Path) -> None:
    made, _ = loop(tmp_path)
    made.run()
    kept = [(tmp_path / f"step-{step}" / "optimizer.pt").exists() for step in (3, 6, 9, 12)]
    assert kept == [False, False, True, True]


def test_every_row_once_an_epoch() -> None:
    batches = Batches({"train": rows(23)}, 4, 2, 2.0, seed=1)
    assert batches.steps == 6
    seen = [tuple(row.tokens) for step in range(3) for batch in batches.step(step) for row in batch]
    assert sorted(seen) == sorted(tuple(row.tokens) for row in rows(23))
