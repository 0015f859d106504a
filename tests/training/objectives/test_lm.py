"""Continued pre-training: packed documents do not see each other."""

from collections.abc import Callable
from typing import Any

import torch

from burnish.models.branches import Network, Row
from burnish.models.cache_kinds import packs
from burnish.models.packing import pack, packed_states
from burnish.training.objectives.lm import Lm, windows


def documents(lengths: list[int]) -> list[Row]:
    chance = torch.Generator().manual_seed(4)
    return [
        Row(torch.randint(3, 61, (n,), generator=chance).tolist(), [0.0] + [1.0] * (n - 1))
        for n in lengths
    ]


def test_packed_equals_alone(llama: Any, plain_logprobs: Callable[..., torch.Tensor]) -> None:
    rows = documents([3, 12, 5, 4, 9, 2])
    expected = sum(-plain_logprobs(llama, row).sum() for row in rows)
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in llama.named_parameters()}
    llama.zero_grad()
    loss = Lm().loss(Network(llama), rows).total
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)
    for name, parameter in llama.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-4, rtol=1e-4, msg=name)


def test_packed_in_fewer_places(llama: Any) -> None:
    assert packs(llama)
    seen: list[int] = []
    hook = llama.get_input_embeddings().register_forward_hook(
        lambda _m, inputs, _o: seen.append(inputs[0].numel())
    )
    rows = documents([12, 3, 5, 4, 8, 2])
    packed_states(Network(llama), rows)
    hook.remove()
    assert seen == [36]  # three rows of 12 places instead of six
    assert sum(row.size for row in rows) == 34


def test_pack_fits_and_loses_nothing() -> None:
    lengths = [5, 9, 1, 4, 4, 7, 2]
    bins = pack(lengths, 9)
    assert sorted(index for members in bins for index in members) == list(range(7))
    assert all(sum(lengths[index] for index in members) <= 9 for members in bins)
    assert len(bins) == 4


def test_windows_learn_each_token_once() -> None:
    row = Row(list(range(10)), [0.0] + [1.0] * 9)
    pieces = windows(row, 4)
    assert [list(piece.tokens) for piece in pieces] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    learnt = [t for p in pieces for t, w in zip(p.tokens, p.weights, strict=True) if w]
    assert learnt == list(range(1, 10))
    assert windows(row, 100) == [row]
