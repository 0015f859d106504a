"""The anchor holds the model near its start, by as much as is tolerated, and learns beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from burnish.models.branches import Network, Row
from burnish.training import anchor
from burnish.training.anchor import Anchored, anchors, coarse_kl, divergence, with_rest
from burnish.training.batches import Batches
from burnish.training.loop import Loop, Settings
from burnish.training.objectives.sft import Sft
from tests.training.test_loop import rows, same_weights, tiny


def texts(count: int = 12) -> list[Row]:
    """Sequences other than those that are learnt."""
    chance = torch.Generator().manual_seed(8)
    found = []
    for index in range(count):
        tokens = torch.randint(4, 61, (5 + index % 4,), generator=chance).tolist()
        found.append(Row([7, *tokens], [0.0, 0.0, *[1.0] * (len(tokens) - 1)]))
    return found


def shifted(seed: int = 1) -> Any:
    """The tiny model away from its start."""
    model = tiny()
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=chance))
    return model


def run(folder: Path, *, tolerated: float | None, **changes: Any) -> Loop:
    model = tiny()
    batches = Batches({"train": rows()}, 4, changes.pop("accumulation", 1), 20, seed=0)
    objective: Any = Sft()
    if tolerated is not None:
        batches.beside = held = anchors(Network(model), texts())
        batches.beside_each = 2
        units, tokens = objective.units(rows()), sum(one.row.learnt for one in held)
        objective = Anchored(objective, tolerated, units / tokens)
    settings = Settings(**{"learning_rate": 1e-2, "evaluations": 0, **changes})
    return Loop(model, batches, objective, settings, {}, folder, lambda *_: None)


def away(model: Any) -> float:
    """KL(start || now) a token over the texts."""
    network = Network(model)
    held = anchors(network, texts())
    with network.frozen():
        total, tokens = divergence(network, held)
    return float(total) / tokens


def test_with_every_token_named_it_is_the_whole_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    start, now = torch.randn(2, 5, 40, dtype=torch.float64, generator=torch.manual_seed(0)).unbind()
    whole = functional.kl_div(
        now.log_softmax(-1), start.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)

    def coarse(width: int) -> torch.Tensor:
        named = start.log_softmax(-1).topk(width).indices
        parts = [with_rest(x.log_softmax(-1).gather(-1, named)) for x in (start, now)]
        return coarse_kl(*parts)

    torch.testing.assert_close(coarse(39), whole, atol=1e-6, rtol=1e-6)
    assert (coarse(5) <= whole).all()
    assert (coarse(5) > 0).all()


def test_at_the_start_nothing_pulls() -> None:
    model = tiny()
    network = Network(model)
    total, _ = divergence(network, anchors(network, texts()))
    total.backward()
    assert float(total.detach()) == pytest.approx(0.0, abs=1e-5)
    assert all(p.grad.abs().max() < 1e-4 for p in model.parameters() if p.requires_grad)


def test_the_start_is_the_base_however_far_the_adapter_is() -> None:
    fresh, far = anchors(Network(tiny()), texts()), anchors(Network(shifted()), texts())
    for one, other in zip(fresh, far, strict=True):
        torch.testing.assert_close(one.logprobs_N_L, other.logprobs_N_L)


def test_the_divergence_is_that_of_plain_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor, "_LIKELIEST", 1000)
    model = shifted()
    network, row = Network(model), texts()[0]
    total, tokens = divergence(network, anchors(network, [row]))
    asked = torch.tensor([place for place, weight in enumerate(row.weights) if weight]) - 1
    with torch.no_grad():
        now = model(torch.tensor([row.tokens])).logits[0, asked].log_softmax(-1)
        with model.disable_adapter():
            start = model(torch.tensor([row.tokens])).logits[0, asked].log_softmax(-1)
    expected = (start.exp() * (start - now)).sum()
    assert tokens == len(asked)
    torch.testing.assert_close(total.detach(), expected, rtol=1e-3, atol=1e-5)


def test_a_batch_is_the_sum_of_its_rows_and_anchors() -> None:
    network = Network(shifted())
    objective = Anchored(Sft(), 0.02, 0.7)
    items = [*rows(3), *anchors(network, texts(2))]

    def gradient(passes: Any) -> torch.Tensor:
        network.wrapped.zero_grad()
        for some in passes:
            objective.loss(network, some).total.backward()
        learning = [p.grad.flatten() for p in network.wrapped.parameters() if p.requires_grad]
        return torch.cat(learning)

    whole = gradient([items])
    torch.testing.assert_close(gradient([[item] for item in items]), whole, rtol=1e-4, atol=1e-5)
    pieces = gradient(objective.pieces(network, items))
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    assert (gradient([items[:3]]) - whole).norm() > 0.01 * whole.norm()
    loss = objective.loss(network, items).total.detach()
    torch.testing.assert_close(loss, Sft().loss(network, items[:3]).total.detach())
    assert objective.units(items) == objective.units(items[:3])


def test_the_multiplier_rises_above_what_is_tolerated_and_falls_below() -> None:
    objective = Anchored(Sft(), 0.02, 1.0)
    weight = objective.carried["anchor_weight"]
    objective.after_step({"loss": 1.0, "anchor_kl": 0.05})
    assert (risen := objective.carried["anchor_weight"]) > weight
    objective.after_step({"loss": 1.0, "anchor_kl": 0.01})
    assert objective.carried["anchor_weight"] < risen
    before = dict(objective.carried)
    objective.after_step({"loss": 1.0})
    assert objective.carried == before


def test_an_anchored_run_learns_and_stays_near(tmp_path: Path) -> None:
    free, held = (run(tmp_path / name, tolerated=t) for name, t in (("free", None), ("held", 0.02)))
    losses = []
    for made in (free, held):
        made.run()
        with torch.no_grad():
            losses.append(Sft().validate(made.network, rows())["loss"])
    start = Sft().validate(Network(tiny()), rows())["loss"]
    assert away(held.model) < 0.25 * away(free.model)
    assert losses[1] < 0.8 * start


def test_anchors_are_read_in_turn_and_dealt_to_the_passes() -> None:
    held: list[Any] = list(range(7))
    batches = Batches({"train": rows()}, 4, 2, 7, seed=0, beside=held, beside_each=3)
    passes = [batches.step(number) for number in range(7)]
    read = [item for step in passes for items in step for item in items if isinstance(item, int)]
    assert sorted(read) == sorted(held * 3)
    assert [sum(isinstance(item, int) for item in items) for items in passes[0]] == [2, 1]


def test_a_resumed_run_has_its_multiplier_again(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", tolerated=0.02)
    straight.run()
    broken = run(tmp_path / "broken", tolerated=0.02, checkpoints=12)

    def stop(phase: str, values: dict[str, Any]) -> None:
        if phase == "train" and values["step"] == 71:
            raise KeyboardInterrupt

    broken.listen = stop
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = run(tmp_path / "broken", tolerated=0.02)
    again.run(resume=True)
    same_weights(again.model, straight.model)
    assert again.objective.carried == straight.objective.carried
