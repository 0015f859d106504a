"""KTO: hand-worked numbers, TRL on the same batch, and whose answers estimate the KL."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from burnish.conversation import Example, Message
from burnish.errors import DataError
from burnish.models.branches import Network, Row
from burnish.training.objectives.kto import Judged, Kto, as_judged, kto
from tests.refused import refused

Draw = Callable[..., list[Row]]


def test_losses_by_hand() -> None:
    liked = torch.tensor([True, False])
    values = kto(torch.tensor([2.0, 2.0]), torch.tensor(0.5), liked, 1.0)
    assert values.tolist() == pytest.approx(
        [1 - 1 / (1 + math.exp(-1.5)), 1 - 1 / (1 + math.exp(1.5))]
    )


def judged(draw: Draw, first: int = 0) -> list[Judged]:
    made = []
    for seed, liked in enumerate([True, False, True]):
        own, other = draw(3 + seed, [4, 6 - seed], seed=first + seed)
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
    objective = Kto(beta=0.2, desirable_weight=1.5, undesirable_weight=0.5)
    loss = objective.loss(network, ready).total
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    for name, value in wanted.items():
        found = dict(adapted.named_parameters())[name].grad
        torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("first", "above"), [(0, False), (3, True)])
@pytest.mark.filterwarnings("ignore")
def test_kto_equals_trl(
    adapted: Any, draw: Draw, first: int, above: bool, trl_trainer: Any, trl_rows: Any,
    assert_same: Any,
) -> None:  # fmt: skip
    """With the reference point above 0 and held there. Both take it from the mismatched answers
    of the batch (equation 8 and the text below it); here TRL is given those that ours chose."""
    made = judged(draw, first)
    options = {"beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    row = {"prompt": "yes", "completion": " parcel", "label": True}
    trainer = trl_trainer("KTO", adapted, row, options)
    batch = trl_rows([item.row for item in made])
    batch |= {f"KL_{k}": v for k, v in trl_rows([item.other for item in made]).items()}
    batch["label"] = torch.tensor([item.liked for item in made])
    with adapted.disable_adapter():
        ready = Kto().prepare(Network(adapted), made)
    adapted.train()
    objective = Kto(beta=0.2, desirable_weight=1.5, undesirable_weight=0.5)
    expected = trainer.compute_loss(adapted, batch)
    assert (trainer._metrics["train"]["kl"][-1] > 0) is above
    assert_same(
        adapted,
        expected,
        lambda: objective.loss(Network(adapted), ready).total / objective.units(ready),
    )


def test_kl_is_estimated_on_answers_to_other_prompts(tiny_tokenizer: Any) -> None:
    """Each answer is used once more, behind a prompt that it does not answer."""

    def asked(name: str, **judged: Any) -> Example:
        answer = Message("assistant", f"yes {name}")
        return Example(name, (Message("user", f"tent {name}"), answer), **judged)

    def read(row: Row, *, learnt: bool) -> str:
        pairs = zip(row.tokens, row.weights, strict=True)
        text = tiny_tokenizer.decode([token for token, w in pairs if bool(w) is learnt])
        return str(text).replace("<|im_end|>", "").split("user\n")[-1].split("\n")[0]

    compared = [asked(n, rejected=f"no {n}") for n in ("red", "green", "blue")]
    alone = [asked(n, liked=n != "green") for n in ("red", "green", "blue")]
    for rows in (compared, alone, compared[:2] + alone[2:]):
        items = Kto().items(rows, tiny_tokenizer, 512)
        own = [read(item.row, learnt=True) for item in items]
        others = [read(item.other, learnt=True) for item in items]
        assert sorted(own) == sorted(others)
        for item, answer in zip(items, others, strict=True):
            prompt = read(item.other, learnt=False)
            assert prompt == read(item.row, learnt=False)
            assert prompt.split()[-1] != answer.split()[-1]
    (single,) = Kto().items(alone[:1], tiny_tokenizer, 512)
    assert read(single.other, learnt=True) == "yes red"  # there is no other


def test_pairs_are_two_judgements() -> None:
    turns = (Message("user", "q"), Message("assistant", "yes"))
    rows = as_judged(Example("1", turns, rejected="no"))
    assert [(row.expected, row.liked) for row in rows] == [("yes", True), ("no", False)]
    with refused("no_judgement", DataError, row="2"):
        as_judged(Example("2", turns))
    with refused("no_judgement", DataError, row=None, count=2, rows=2):
        Kto().check([Example("2", turns), Example("3", turns)])
