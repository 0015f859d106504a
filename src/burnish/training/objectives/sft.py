"""Supervised fine-tuning: the weighted negative log-likelihood of the trained tokens.

Two variants forget less. EAFT weights each token by the model's entropy there, so that tokens
that contradict a confident model change it little (arXiv 2601.02151). STM trains only on tokens
that are likely under the base model (arXiv 2501.14315), here the likeliest share.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from burnish.conversation import Example
from burnish.models.branches import (
    Network,
    Row,
    branch_states,
    target_logprobs,
    tree_states,
    trunk_length,
)
from burnish.training.objectives.base import (
    Branches,
    Loss,
    Objective,
    conversations_of,
    flat_rows,
    grouped_rows,
    light_pieces,
)

# Share of the tokens that STM trains on, as measured by bench/forgetting.py.
_STM_SHARE = 0.8
# The entropy is that of the 20 likeliest tokens, as in the paper, divided by ln 20.
_EAFT_TOKENS = 20
_AT_ONCE = 16


@dataclass(frozen=True)
class Sft(Objective[Row | Branches], name="sft"):
    """Trains on the weighted tokens of each row.

    Args:
        neftune_noise_alpha: noise on the embeddings in training (Jain et al. 2023, arXiv
            2310.05914); each row has its own noise, so rows do not share a trunk.
        token_weighting: `all`, `entropy` (EAFT), or `likely` (STM).
    """

    neftune_noise_alpha: float = 0.0
    token_weighting: Literal["all", "entropy", "likely"] = "all"

    def items(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int
    ) -> list[Row | Branches]:
        return conversations_of(examples, tokenizer, max_length)

    def prepare(
        self, network: Network, items: Sequence[Row | Branches], *, training: bool = True
    ) -> list[Row | Branches]:
        if self.token_weighting != "likely" or not items or not training:
            return list(items)
        rows = flat_rows(items)
        return [*likely_only(rows, token_logprobs(network, rows), _STM_SHARE)]

    def units(self, items: Sequence[Row | Branches]) -> float:
        return float(sum(sum(row.weights) for row in flat_rows(items)))

    def pieces(
        self, network: Network, items: Sequence[Row | Branches]
    ) -> list[list[Row | Branches]]:
        trunk = 0 if self.neftune_noise_alpha else trunk_length(flat_rows(items))
        return light_pieces(network, items, trunk)

    def loss(self, network: Network, items: Sequence[Row | Branches]) -> Loss:
        """Return the loss and `token_accuracy`, the share of trained tokens that are likeliest."""
        groups, rows = grouped_rows(items), flat_rows(items)
        training = network.model.training
        if training and self.neftune_noise_alpha:
            with embedding_noise(network, self.neftune_noise_alpha):
                states = branch_states(network, rows, trunk=0)
        else:
            several = any(len(rows) > 1 for rows in groups)
            states = tree_states(network, groups) if several else branch_states(network, rows)
        # Every variant is validated by the plain loss.
        read = self._read if training else Sft()._read
        values_N_3 = network.read(states.hidden_N_H, states.targets_N, read)
        losses_N, focus_N, right_N = values_N_3.unbind(-1)
        right = right_N.detach().float().sum(), float(len(right_N))
        return Loss(
            (losses_N * focus_N.detach() * states.weights_N).sum(), {"token_accuracy": right}
        )

    def _read(self, logits_N_V: Tensor, targets_N: Tensor, which: slice) -> Tensor:
        """Return the loss, its weight, and whether the token is the likeliest, shape (n, 3)."""
        losses_N = functional.cross_entropy(logits_N_V, targets_N, reduction="none")
        focus_N = torch.ones_like(losses_N)
        if self.token_weighting == "entropy":
            focus_N = top_entropy(logits_N_V)
        right_N = logits_N_V.detach().argmax(-1) == targets_N
        return torch.stack([losses_N, focus_N, right_N.to(losses_N)], dim=-1)


def top_entropy(logits_N_V: Tensor, tokens: int = _EAFT_TOKENS) -> Tensor:
    """Return the entropy of the renormalised likeliest tokens over ln(tokens), in [0, 1]."""
    tokens = min(tokens, logits_N_V.shape[-1])
    logprobs = logits_N_V.detach().topk(tokens, dim=-1).values.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1) / math.log(tokens)


def token_logprobs(network: Network, rows: Sequence[Row]) -> list[list[float]]:
    """Return the log-probability of each trained token under the present weights, by row."""
    result: list[list[float]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    with network.frozen():
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            states = branch_states(network, [rows[index] for index in part])
            values = network.read(states.hidden_N_H, states.targets_N, target_logprobs)
            numbers = iter(values.tolist())
            for index in part:
                result[index] = [next(numbers) for _ in range(rows[index].learnt)]
    return result


def likely_only(rows: Sequence[Row], logprobs: Sequence[Sequence[float]], keep: float) -> list[Row]:
    """Set the weights of all but the likeliest share `keep` of trained tokens to 0."""
    every = torch.tensor([value for row in logprobs for value in row], dtype=torch.float64)
    limit = float(every.sort(descending=True).values[max(0, math.ceil(keep * len(every)) - 1)])
    masked = []
    for row, values in zip(rows, logprobs, strict=True):
        remaining = iter(values)
        weights = [w if w and next(remaining) >= limit else 0.0 for w in row.weights]
        masked.append(Row(row.tokens, weights))
    return [row for row in masked if row.learnt]


@contextlib.contextmanager
def embedding_noise(network: Network, alpha: float) -> Iterator[None]:
    """Add uniform noise of size alpha / sqrt(L x H) to the embeddings of each row of L tokens."""

    def add(_module: Any, _inputs: Any, embedded_B_L_H: Tensor) -> Tensor:
        size = embedded_B_L_H.shape[1] * embedded_B_L_H.shape[2]
        return embedded_B_L_H + torch.zeros_like(embedded_B_L_H).uniform_(-1, 1) * (
            alpha / math.sqrt(size)
        )

    hook = network.model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
