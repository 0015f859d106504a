"""SFT and its variants against hand-worked numbers and other people's code."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.integrations.neftune import neftune_post_forward_hook
from transformers.trainer_pt_utils import LabelSmoother

from burnish.models.branches import Network, Row
from burnish.training.objectives.base import Branches
from burnish.training.objectives.sft import Sft, likely_only, token_logprobs, top_entropy

Draw = Callable[..., list[Row]]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_equal_gradients(model: Any, expected: dict[str, torch.Tensor]) -> None:
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-4, msg=name)


def padded(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(row.size for row in rows)
    tokens = [[*row.tokens, *[0] * (longest - row.size)] for row in rows]
    labels = [
        [t if w else -100 for t, w in zip(row.tokens, row.weights, strict=True)]
        + [-100] * (longest - row.size)
        for row in rows
    ]
    return torch.tensor(tokens), torch.tensor(labels)


def test_the_loss_equals_transformers(llama: Any, draw: Draw) -> None:
    rows = draw(5, [4, 7, 2])
    tokens, labels = padded(rows)
    llama.train()
    expected = LabelSmoother(epsilon=0.0)({"logits": llama(tokens).logits}, labels, True)
    expected.backward()
    wanted = gradients(llama)
    objective = Sft()
    loss = objective.loss(Network(llama), rows).total / objective.units(rows)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert_equal_gradients(llama, wanted)


def test_branches_of_a_conversation_are_learnt_as_its_rows_alone(llama: Any, draw: Draw) -> None:
    """A group of branches beside a row: the same loss and gradients, the beginning read once."""
    first, second, other = draw(6, [3, 8, 4])
    group = Branches((first, second))
    assert (group.size, group.learnt) == (6 + 3 + 8, 11)
    objective, network = Sft(), Network(llama)
    llama.train()
    objective.loss(network, [first, second, other]).total.backward()
    wanted = gradients(llama)
    for items in ([group, other], [other, group]):
        assert objective.units(items) == 15
        found = objective.loss(network, items)
        found.total.backward()
        assert found.metrics["token_accuracy"][1] == 15
        assert_equal_gradients(llama, wanted)
    assert sum(map(len, objective.pieces(network, [group, other]))) == 2
    assert Sft(token_weighting="likely").prepare(network, [group, other])


@pytest.mark.parametrize("training", [True, False])
def test_token_accuracy_is_the_share_of_learnt_tokens_that_are_likeliest(
    llama: Any, draw: Draw, training: bool
) -> None:
    rows = draw(5, [4, 7, 2])
    place = next(place for place, weight in enumerate(rows[0].weights) if weight)
    tokens = list(rows[0].tokens)
    with torch.no_grad():  # at least one is right
        tokens[place] = int(llama(torch.tensor([tokens])).logits[0, place - 1].argmax())
    rows[0] = Row(tokens, rows[0].weights)
    with torch.no_grad():
        right = [
            int(llama(torch.tensor([row.tokens])).logits[0, place - 1].argmax()) == token
            for row in rows
            for place, (token, weight) in enumerate(zip(row.tokens, row.weights, strict=True))
            if weight
        ]
    assert 0 < sum(right) < len(right)
    total, count = Sft().loss(Network(llama.train(training)), rows).metrics["token_accuracy"]
    assert (float(total), count) == (sum(right), len(right))


def test_neftune_equals_transformers(llama: Any, draw: Draw) -> None:
    rows = draw(5, [6, 6, 6])
    tokens, labels = padded(rows)
    llama.train()
    embeddings = llama.get_input_embeddings()
    embeddings.neftune_noise_alpha = 5.0
    hook = embeddings.register_forward_hook(neftune_post_forward_hook)
    torch.manual_seed(11)
    expected = llama(tokens, labels=labels).loss
    hook.remove()
    torch.manual_seed(11)
    objective = Sft(neftune_noise_alpha=5.0)
    loss = objective.loss(Network(llama), rows).total / objective.units(rows)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    llama.eval()
    plain = llama(tokens, labels=labels).loss
    quiet = objective.loss(Network(llama), rows).total / objective.units(rows)
    torch.testing.assert_close(quiet, plain, atol=1e-5, rtol=1e-5)


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0], [0.0, 0.0, -50.0, -50.0]])
    torch.testing.assert_close(top_entropy(logits, 4), torch.tensor([1.0, 0.0, 0.5]))
    # Only the likeliest two count, and they are renormalised.
    torch.testing.assert_close(top_entropy(logits[2:], 2), torch.tensor([1.0]))


def test_eaft_weighs_each_token_by_its_entropy(
    llama: Any, draw: Draw, plain_logprobs: Callable[..., torch.Tensor]
) -> None:
    (row,) = draw(4, [6])
    llama.train()
    tokens = torch.tensor([list(row.tokens)])
    top = llama(tokens).logits[0, 3:-1].detach().topk(20).values.softmax(-1)
    weights = -(top * top.log()).sum(-1) / math.log(20)
    expected = -(plain_logprobs(llama, row) * weights).sum()
    expected.backward()
    wanted = gradients(llama)
    loss = Sft(token_weighting="entropy").loss(Network(llama), [row]).total
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert_equal_gradients(llama, wanted)


def test_stm_keeps_the_likely_tokens() -> None:
    rows = [Row([1, 2, 3], [0.0, 1.0, 1.0]), Row([4, 5, 6], [0.0, 2.0, 0.0])]
    logprobs = [[-1.0, -3.0], [-2.0]]
    assert [row.weights for row in likely_only(rows, logprobs, 0.6)] == [
        [0.0, 1.0, 0.0],
        [0.0, 2.0, 0.0],
    ]
    assert [row.weights for row in likely_only(rows, logprobs, 0.3)] == [[0.0, 1.0, 0.0]]
    assert likely_only(rows, logprobs, 1.0) == rows


def test_stm_asks_the_model_as_training_begins(
    adapted: Any, draw: Draw, plain_logprobs: Callable[..., torch.Tensor]
) -> None:
    rows = [*draw(5, [4, 7]), *draw(3, [5], seed=2)]
    found = token_logprobs(Network(adapted), rows)
    for row, values in zip(rows, found, strict=True):
        expected = plain_logprobs(adapted, row)
        torch.testing.assert_close(torch.tensor(values), expected, atol=1e-5, rtol=1e-5)
    kept = Sft(token_weighting="likely").prepare(Network(adapted), rows)
    assert sum(row.learnt for row in kept) == 13  # 0.8 of 16, rounded up
