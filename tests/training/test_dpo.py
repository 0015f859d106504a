"""Preference losses: hand-worked numbers, TRL on the same batch, the reference kept or asked."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from burnish.chat import Example, Message
from burnish.errors import DataError
from burnish.models.branches import Network, Row
from burnish.training.objectives.dpo import Dpo, Pair, ipo, orpo, sigmoid, simpo, with_reference
from burnish.training.objectives.kto import Judged, Kto, as_judged, kto

Draw = Callable[..., list[Row]]


def pairs(draw: Draw) -> list[Pair]:
    made = []
    for seed, lengths in enumerate([[4, 6], [3, 2], [5, 5]]):
        chosen, rejected = draw(3 + seed, lengths, seed=seed)
        made.append(Pair(chosen, rejected))
    return made


def test_losses_by_hand() -> None:
    ratios = torch.tensor([[2.0, -1.0]])
    assert float(sigmoid(ratios, 0.5)) == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert float(ipo(ratios, 0.5)) == pytest.approx((3 - 1) ** 2)
    means = torch.tensor([[math.log(0.5), math.log(0.2)]])
    assert float(simpo(means, 2.0, 0.5)) == pytest.approx(
        math.log(1 + math.exp(-(2 * math.log(2.5) - 0.5)))
    )
    odds_ratio = (0.5 / 0.5) / (0.2 / 0.8)
    wanted = math.log(2) + 0.1 * math.log(1 + 1 / odds_ratio)
    assert float(orpo(means, 0.1)) == pytest.approx(wanted)
    liked = torch.tensor([True, False])
    values = kto(torch.tensor([2.0, 2.0]), torch.tensor(0.5), liked, 1.0)
    assert values.tolist() == pytest.approx(
        [1 - 1 / (1 + math.exp(-1.5)), 1 - 1 / (1 + math.exp(1.5))]
    )


def trl_batch(made: list[Pair]) -> dict[str, torch.Tensor]:
    rows = [pair.chosen for pair in made] + [pair.rejected for pair in made]
    longest = max(row.size for row in rows)

    def fill(values: list[Any]) -> list[Any]:
        return values + [0] * (longest - len(values))

    return {
        "input_ids": torch.tensor([fill(list(row.tokens)) for row in rows]),
        "attention_mask": torch.tensor([fill([1] * row.size) for row in rows]),
        "completion_mask": torch.tensor(
            [fill([int(bool(w)) for w in row.weights]) for row in rows]
        ),
    }


def trl_trainer(kind: str, model: Any, tokenizer: Any, folder: Any, **options: Any) -> Any:
    """A real trainer of TRL, whose loss is asked for on our batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl", reason="TRL is the oracle")
        from datasets import Dataset

        row = {"prompt": "yes", "chosen": " parcel", "rejected": " tent"}
        judged = {"prompt": "yes", "completion": " parcel", "label": True}
        given = dict(
            output_dir=str(folder), report_to="none", use_cpu=True, bf16=False,
            gradient_checkpointing=False, **options,
        )  # fmt: skip
        config, trainer = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
        return trainer(
            model=model,
            args=config(**given),
            train_dataset=Dataset.from_list([row if kind == "DPO" else judged] * 8),
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("variant", ["sigmoid", "ipo"])
@pytest.mark.filterwarnings("ignore")
def test_dpo_equals_trl(
    adapted: Any, draw: Draw, variant: Any, tiny_tokenizer: Any, tmp_path: Any
) -> None:
    made = pairs(draw)
    adapted.config.vocab_size = len(tiny_tokenizer)
    trainer = trl_trainer("DPO", adapted, tiny_tokenizer, tmp_path, loss_type=[variant], beta=0.3)
    adapted.train()
    # TRL keeps the adapter that it was given as its reference; ours is the base, as without one.
    adapted.peft_config.pop("ref", None)
    expected = trainer.compute_loss(adapted, trl_batch(made))
    expected.backward()
    learning = {n: p for n, p in adapted.named_parameters() if p.grad is not None}
    wanted = {name: p.grad.clone() for name, p in learning.items()}
    adapted.zero_grad()
    objective = Dpo(variant=variant, beta=0.3, keep_reference=False)
    loss = objective.loss(Network(adapted), made).total / objective.units(made)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    for name, parameter in learning.items():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("variant", ["sigmoid", "ipo", "simpo", "orpo"])
def test_pairs_equal_the_plain_forward(
    adapted: Any, draw: Draw, variant: Any, plain_logprobs: Callable[..., torch.Tensor]
) -> None:
    made = pairs(draw)
    adapted.train()
    with adapted.disable_adapter(), torch.no_grad():
        reference = [
            [plain_logprobs(adapted, row) for row in (pair.chosen, pair.rejected)] for pair in made
        ]
    policy = [[plain_logprobs(adapted, row) for row in (p.chosen, p.rejected)] for p in made]
    sums = torch.stack([torch.stack([row.sum() for row in pair]) for pair in policy])
    means = torch.stack([torch.stack([row.mean() for row in pair]) for pair in policy])
    old = torch.stack([torch.stack([row.sum() for row in pair]) for pair in reference])
    old_means = torch.stack([torch.stack([row.mean() for row in pair]) for pair in reference])
    expected = {
        "sigmoid": lambda: sigmoid(sums - old, 0.1),
        "ipo": lambda: ipo(means - old_means, 0.1),
        "simpo": lambda: simpo(means, 0.1, 0.5),
        "orpo": lambda: orpo(means, 0.1),
    }[variant]().sum()
    found = Dpo(variant=variant, keep_reference=False).loss(Network(adapted), made)
    torch.testing.assert_close(found.total, expected, atol=1e-4, rtol=1e-4)
    assert adapted.training


def test_kept_reference_is_what_the_start_says(llama: Any, draw: Draw) -> None:
    made = with_reference(Network(llama), pairs(draw))
    objective = Dpo()
    loss = objective.loss(Network(llama), made)
    assert float(loss.total.detach()) / 3 == pytest.approx(
        math.log(2), abs=1e-5
    )  # policy = reference
    assert objective.prepare(Network(llama), pairs(draw))[0].reference == made[0].reference


def test_without_an_adapter_the_reference_must_be_kept(llama: Any, draw: Draw) -> None:
    from burnish.errors import ModelError

    with pytest.raises(ModelError, match="not kept beside weights that learn"):
        Dpo(keep_reference=False).loss(Network(llama), pairs(draw))


def test_only_the_last_answer_is_learnt(tiny_tokenizer: Any) -> None:
    turns = tuple(
        Message(role, text)  # type: ignore[arg-type]
        for role, text in [
            ("user", "yes"),
            ("assistant", "no"),
            ("user", "tent"),
            ("assistant", "red"),
        ]
    )
    example = Example("1", turns, rejected="green")
    (pair,) = Dpo().items([example], tiny_tokenizer, 512)
    for row, answer in ((pair.chosen, "red"), (pair.rejected, "green")):
        learnt = [t for t, w in zip(row.tokens, row.weights, strict=True) if w]
        assert tiny_tokenizer.decode(learnt) == f"{answer}<|im_end|>"
    with pytest.raises(DataError, match="no rejected answer"):
        Dpo().items([Example("2", turns)], tiny_tokenizer, 512)


def judged(draw: Draw) -> list[Judged]:
    made = []
    for seed, liked in enumerate([True, False, True]):
        own, other = draw(3 + seed, [4, 6 - seed], seed=seed)
        made.append(Judged(own, other, liked))
    return made


def test_kto_by_plain_forward(
    adapted: Any, draw: Draw, plain_logprobs: Callable[..., torch.Tensor]
) -> None:
    made = judged(draw)
    network = Network(adapted)
    adapted.train()
    with adapted.disable_adapter():
        ready = Kto().prepare(network, made)

    def ratio(row: Row) -> torch.Tensor:
        with adapted.disable_adapter(), torch.no_grad():
            before = plain_logprobs(adapted, row).sum()
        return plain_logprobs(adapted, row).sum() - before

    divergence = torch.stack([ratio(item.other) for item in made]).mean().clamp(min=0).detach()
    expected = sum(
        (1.5 if item.liked else 0.5)
        * (1 - torch.sigmoid(0.2 * (1 if item.liked else -1) * (ratio(item.row) - divergence)))
        for item in made
    )
    assert isinstance(expected, torch.Tensor)
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in adapted.named_parameters() if p.grad is not None}
    adapted.zero_grad()
    objective = Kto(beta=0.2, liked_weight=1.5, disliked_weight=0.5)
    loss = objective.loss(network, ready).total
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    for name, value in wanted.items():
        found = dict(adapted.named_parameters())[name].grad
        torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-3, msg=name)


def test_pairs_are_two_judgements() -> None:
    turns = (Message("user", "q"), Message("assistant", "yes"))
    rows = as_judged(Example("1", turns, rejected="no"))
    assert [(row.expected, row.liked) for row in rows] == [("yes", True), ("no", False)]
    with pytest.raises(DataError, match="no judgement"):
        as_judged(Example("2", turns))
