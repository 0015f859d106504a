"""Supervised fine-tuning: the weighted negative log-likelihood of the learnt tokens.

Two variants forget less. EAFT weighs each token by the model's own entropy there, so that tokens
on which it is confident and contradicted move it little (arXiv 2601.02151). STM learns
only tokens that the base model finds likely enough (arXiv 2501.14315), here by quantile.
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

# Share of the tokens that STM learns, at which bench/forgetting.py measured it.
_STM_SHARE = 0.8
# The entropy of the 20 likeliest tokens, as the paper takes it; ln 20 makes it lie in [0, 1].
_EAFT_TOKENS = 20
_AT_ONCE = 16


@dataclass(frozen=True)
class Sft(Objective[Row | Branches], name="sft"):
    """Learns the weighted tokens of each row.

    Args:
        neftune_noise_alpha: noise on the embeddings in training (Jain et al. 2023, arXiv
            2310.05914); the noise differs from row to row, so rows share no trunk.
        token_weighting: which tokens count: `all`, `entropy` (EAFT), or `likely` (STM).
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
        """The metric `token_accuracy`: how many of the learnt tokens are the likeliest there."""
        groups, rows = grouped_rows(items), flat_rows(items)
        learns = network.model.training
        if learns and self.neftune_noise_alpha:
            with embedding_noise(network, self.neftune_noise_alpha):
                asked = branch_states(network, rows, trunk=0)
        else:
            several = any(len(rows) > 1 for rows in groups)
            asked = tree_states(network, groups) if several else branch_states(network, rows)
        # Validation is the plain loss, alike for every variant.
        read = self._read if learns else Sft()._read
        found_N_3 = network.read(asked.hidden_N_H, asked.targets_N, read)
        losses_N, focus_N, right_N = found_N_3.unbind(-1)
        right = right_N.detach().float().sum(), float(len(right_N))
        return Loss(
            (losses_N * focus_N.detach() * asked.weights_N).sum(), {"token_accuracy": right}
        )

    def _read(self, logits_N_V: Tensor, targets_N: Tensor, which: slice) -> Tensor:
        """The loss, how much it counts, and whether no token is likelier, shape (n, 3)."""
        losses_N = functional.cross_entropy(logits_N_V, targets_N, reduction="none")
        focus_N = torch.ones_like(losses_N)
        if self.token_weighting == "entropy":
            focus_N = top_entropy(logits_N_V)
        right_N = logits_N_V.detach().argmax(-1) == targets_N
        return torch.stack([losses_N, focus_N, right_N.to(losses_N)], dim=-1)


def top_entropy(logits_N_V: Tensor, tokens: int = _EAFT_TOKENS) -> Tensor:
    """Entropy of the renormalised likeliest tokens over ln(tokens): 0 is sure, 1 has no idea."""
    tokens = min(tokens, logits_N_V.shape[-1])
    logprobs = logits_N_V.detach().topk(tokens, dim=-1).values.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1) / math.log(tokens)


def token_logprobs(network: Network, rows: Sequence[Row]) -> list[list[float]]:
    """The log-probability of each learnt token under the weights of now, row by row."""
    found: list[list[float]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].tokens))
    with network.frozen():
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            asked = branch_states(network, [rows[index] for index in part])
            values = network.read(asked.hidden_N_H, asked.targets_N, target_logprobs)
            numbers = iter(values.tolist())
            for index in part:
                found[index] = [next(numbers) for _ in range(rows[index].learnt)]
    return found


def likely_only(rows: Sequence[Row], logprobs: Sequence[Sequence[float]], keep: float) -> list[Row]:
    """Rows in which only the `keep` likeliest of all learnt tokens still have their weight."""
    every = torch.tensor([value for row in logprobs for value in row], dtype=torch.float64)
    limit = float(every.sort(descending=True).values[max(0, math.ceil(keep * len(every)) - 1)])
    masked = []
    for row, values in zip(rows, logprobs, strict=True):
        left = iter(values)
        weights = [w if w and next(left) >= limit else 0.0 for w in row.weights]
        masked.append(Row(row.tokens, weights))
    return [row for row in masked if row.learnt]


@contextlib.contextmanager
def embedding_noise(network: Network, alpha: float) -> Iterator[None]:
    """Uniform noise of size alpha / sqrt(L x H) on the embeddings of each row of L tokens."""

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
