"""Preference losses: hand-worked numbers, TRL on the same batch, the reference kept or asked."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from burnish.conversation import Example, Message
from burnish.errors import DataError
from burnish.models.branches import Network, Row
from burnish.training.objectives.dpo import (
    Dpo,
    Pair,
    ipo,
    orpo,
    pair_logprobs,
    sigmoid,
    simpo,
    with_reference,
)
from tests.refused import refused

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


PAIR = {"prompt": "yes", "chosen": " parcel", "rejected": " tent"}


def halves(made: list[Pair], trl_rows: Callable[..., Any]) -> dict[str, torch.Tensor]:
    """The batch that TRL's trainers of CPO and ORPO take."""
    batch = {}
    for name, rows in (
        ("chosen", [pair.chosen for pair in made]),
        ("rejected", [pair.rejected for pair in made]),
    ):
        found = trl_rows(rows)
        batch[f"{name}_input_ids"] = found["input_ids"]
        batch[f"{name}_attention_mask"] = found["attention_mask"]
        unseen = found["completion_mask"] == 0
        batch[f"{name}_labels"] = found["input_ids"].masked_fill(unseen, -100)
    return batch


@pytest.mark.parametrize("variant", ["sigmoid", "ipo"])
@pytest.mark.filterwarnings("ignore")
def test_dpo_equals_trl(
    adapted: Any, draw: Draw, variant: Any, trl_trainer: Any, trl_rows: Any, assert_same: Any
) -> None:
    made = pairs(draw)
    trainer = trl_trainer("DPO", adapted, PAIR, {"loss_type": [variant], "beta": 0.3})
    adapted.train()
    rows = [pair.chosen for pair in made] + [pair.rejected for pair in made]
    objective = Dpo(loss_type=variant, beta=0.3, precompute_reference=False)
    assert_same(
        adapted,
        trainer.compute_loss(adapted, trl_rows(rows)),
        lambda: objective.loss(Network(adapted), made).total / objective.units(made),
    )


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 0.5), (0.3, 1.4)])
@pytest.mark.filterwarnings("ignore")
def test_simpo_equals_trl(
    adapted: Any, draw: Draw, beta: float, gamma: float, trl_trainer: Any, trl_rows: Any,
    assert_same: Any,
) -> None:  # fmt: skip
    """TRL adds a likelihood of the chosen answers, which the paper's equation 6 has not: 0 here."""
    made = pairs(draw)
    options = {"loss_type": "simpo", "beta": beta, "simpo_gamma": gamma, "cpo_alpha": 0.0}
    trainer = trl_trainer("CPO", adapted, PAIR, options)
    adapted.train()
    objective = Dpo(loss_type="simpo", beta=beta, gamma=gamma)
    assert_same(
        adapted,
        trainer.compute_loss(adapted, halves(made, trl_rows)),
        lambda: objective.loss(Network(adapted), made).total / objective.units(made),
    )


def of_one_token(draw: Draw) -> list[Pair]:
    """Prompts of one token and chosen answers of one length, where TRL's mean is the paper's."""
    drawn = [draw(1, [5, lengths], seed=seed) for seed, lengths in enumerate([6, 2, 5])]
    return [Pair(chosen, rejected) for chosen, rejected in drawn]


@pytest.mark.parametrize("make", [pairs, of_one_token])
@pytest.mark.filterwarnings("ignore")
def test_orpo_equals_trl(
    adapted: Any, draw: Draw, make: Any, plain_logprobs: Any, trl_trainer: Any, trl_rows: Any,
    assert_same: Any,
) -> None:  # fmt: skip
    """The odds ratio is TRL's. Its likelihood counts the prompt's tokens and every token alike.

    The paper's (equations 1 and 6) is that of the answer given its prompt, a mean of each answer,
    so TRL's is taken off and that one put there; on `of_one_token` both are the same.
    """
    made = make(draw)
    trainer = trl_trainer("ORPO", adapted, PAIR, {"beta": 0.7})
    adapted.train()
    theirs = trainer.compute_loss(adapted, halves(made, trl_rows))
    if make is pairs:
        read = [Row(p.chosen.tokens, [0.0] + [1.0] * (p.chosen.size - 1)) for p in made]
        pooled = torch.cat([plain_logprobs(adapted, row) for row in read]).mean()
        answers = torch.stack([plain_logprobs(adapted, pair.chosen).mean() for pair in made])
        assert abs(float(pooled - answers.mean())) > 0.01
        theirs = theirs + pooled - answers.mean()
    objective = Dpo(loss_type="orpo", beta=0.7)
    assert_same(
        adapted,
        theirs,
        lambda: objective.loss(Network(adapted), made).total / objective.units(made),
    )


def test_orpo_of_a_certain_answer_is_finite() -> None:
    """An answer known by heart has probability 1 in float32, where its odds are infinite."""
    logprobs = torch.tensor([[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    losses = orpo(logprobs, 0.5)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert bool(logprobs.grad.isfinite().all())
    assert losses[0].item() == pytest.approx(0.0, abs=1e-6)
    assert losses[2].item() == pytest.approx(0.5 * math.log(2))


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
    found = Dpo(loss_type=variant, precompute_reference=False).loss(Network(adapted), made)
    torch.testing.assert_close(found.total, expected, atol=1e-4, rtol=1e-4)
    assert adapted.training


def test_kept_reference_is_what_the_start_says(llama: Any, draw: Draw) -> None:
    made = with_reference(Network(llama), pairs(draw), pair_logprobs)
    objective = Dpo()
    loss = objective.loss(Network(llama), made)
    assert float(loss.total.detach()) / 3 == pytest.approx(
        math.log(2), abs=1e-5
    )  # policy = reference
    assert objective.prepare(Network(llama), pairs(draw))[0].reference == made[0].reference


def test_without_an_adapter_the_reference_must_be_kept(llama: Any, draw: Draw) -> None:
    from burnish.errors import ModelError

    with refused("base_not_kept", ModelError):
        Dpo(precompute_reference=False).loss(Network(llama), pairs(draw))


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
    with refused("no_rejected_answer", DataError, row="2", count=1, rows=2):
        Dpo().check([example, Example("2", turns)])
    with refused("no_rejected_answer", DataError, row=None, count=3, rows=3):
        Dpo().check([Example(str(n), turns) for n in range(3)])


def test_pair_is_as_long_as_its_longer_answer(tiny_tokenizer: Any) -> None:
    turns = (Message("user", "yes"), Message("assistant", "no"))
    short, long = Example("1", turns, rejected="red"), Example("2", turns, rejected="parcel " * 30)
    kept, finding = Dpo().render([short, long], tiny_tokenizer, 60)
    assert [row.id for row in kept] == ["1"]
    assert finding is not None
    assert finding.count == 1
