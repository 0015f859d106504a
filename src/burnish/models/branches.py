"""Trunk and branches: sequences with the same beginning, in which each token is computed once.

The trunk (the common beginning) is run once, with gradient in training. Its key/value cache is
expanded over the branches, which are one batch after it, and the vocabulary projection is computed
only where it is needed. Causal attention makes this exact: the states of the trunk do not depend on
the branches, so loss and gradients equal those of plain forward passes within float tolerance.

Shapes: B rows, T tokens already computed, L new tokens, H hidden size, N target positions.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from burnish.errors import ModelError
from burnish.models.adapt import adapters_disabled, base_model_of, has_adapter, learned_prefix
from burnish.models.cache_kinds import Continues, continues
from burnish.models.continuation import Tokens, extend_rows
from burnish.models.devices import tensor_on
from burnish.models.trunk_cache import TrunkCache

# Positions per vocabulary projection: 512 x 50,000 float32 logits are 100 MB; more is not faster.
_PROJECTED_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence and, for each token, the weight of predicting it (0 = only read).

    The first token has nothing before it: its weight must be 0.
    """

    tokens: Tokens
    weights: Sequence[float]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def learnt(self) -> int:
        """Number of tokens with a weight."""
        return sum(1 for weight in self.weights if weight)


@dataclass(frozen=True, slots=True)
class TargetStates:
    """The positions whose next token has a weight, rows one after the other.

    `hidden_N_H` predicts `targets_N`; `rows_N` numbers the row that each position belongs to.
    """

    hidden_N_H: Tensor
    targets_N: Tensor
    weights_N: Tensor
    rows_N: Tensor

    def sums(self, values_N: Tensor, rows: int) -> Tensor:
        """Weighted sum of each row's values; shape (rows,)."""
        zeros = values_N.new_zeros(rows)
        return zeros.index_add(0, self.rows_N, values_N * self.weights_N)


# A function of logits (n, V) and targets (n,); the slice selects them among all positions.
LogitsReader = Callable[[Tensor, Tensor, slice], Tensor]


def target_logprobs(logits_N_V: Tensor, targets_N: Tensor, _: slice) -> Tensor:
    """log p(target) in nats, shape (n,)."""
    return -functional.cross_entropy(logits_N_V, targets_N, reduction="none")


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities (nats) of the tokens with a weight, rows one after the other."""

    values_N: Tensor
    weights_N: Tensor
    rows_N: Tensor

    def sums(self, rows: int) -> Tensor:
        """Weighted sum of each row; shape (rows,)."""
        zeros = self.values_N.new_zeros(rows)
        return zeros.index_add(0, self.rows_N, self.values_N * self.weights_N)


class Network:
    """A causal language model with its adapter, as backbone and vocabulary projection.

    Attributes:
        may_share: False computes every row from its first token, in one pass through the layers,
            even if rows could share a trunk.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self.may_share = True
        self.wrapped: Any = model
        self.model: Any = base_model_of(model)
        self.config: Any = self.model.config.get_text_config()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Disables gradients and dropout within a `with` block."""
        training = self.model.training
        self.wrapped.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.wrapped.train(training)

    @contextlib.contextmanager
    def base(self) -> Iterator[None]:
        """Also disables the trained adapter; an earlier run's adapter stays active.

        Raises:
            ModelError: there is no adapter, so the base model is not available any more.
        """
        if not has_adapter(self.wrapped):
            raise ModelError(
                "the base model is not available when training changes its weights",
                "set method to lora, or compute the base model's outputs before training",
                code="base_not_kept",
            )
        with self.frozen(), adapters_disabled(self.wrapped, frozen_too=False):
            yield

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def shares_beginnings(self) -> bool:
        """Whether rows that begin alike share a trunk, which the model's cache may not allow."""
        return self.may_share and continues(self.model) is Continues.TOKENS

    def start(self) -> TrunkCache:
        """An empty trunk of one row, with the learned prefix if there is one."""
        cache = learned_prefix(self.wrapped)
        length = 0 if cache is None else cache.get_seq_length()
        return TrunkCache(cache, torch.ones(1, length, dtype=torch.long), None)

    def extend(
        self,
        prefix: TrunkCache,
        rows: Sequence[Tokens],
        parents: Sequence[int],
        *,
        left: bool,
        consume: bool = False,
    ) -> tuple[TrunkCache, Tensor]:
        """Runs `rows` after the rows `parents` of the prefix; returns hidden states (B, L, H).

        `left` returns rows that can be extended again. Hidden states of shorter rows are followed
        by padding. `consume` extends the cache of a prefix with exactly these rows in place, if it
        is not used again.
        """
        return extend_rows(self.model, prefix, rows, parents, left=left, consume=consume)

    def logits(self, hidden_N_H: Tensor) -> Tensor:
        """Logits: the vocabulary projection with the scaling that some architectures apply."""
        head = self.model.get_output_embeddings()
        if not isinstance(head, nn.Module):
            raise ModelError(
                f"{type(self.model).__name__} has no vocabulary projection",
                "use a causal language model",
                code="no_vocabulary",
                model=type(self.model).__name__,
            )
        before = getattr(self.model, "lm_head", head)
        if before is not head and getattr(self.model, "decoder", None) is head:
            hidden_N_H = before(hidden_N_H)  # ModernBERT transforms the states first
        logits_N_V: Tensor = head(hidden_N_H)
        if scale := getattr(self.config, "logit_scale", None):
            logits_N_V = logits_N_V * scale
        if scale := getattr(self.config, "lm_head_multiplier", None):
            logits_N_V = logits_N_V * scale
        if scale := getattr(self.config, "logits_scaling", None):
            multiplies = self.config.model_type == "hyperclovax"  # the others divide
            logits_N_V = logits_N_V * scale if multiplies else logits_N_V / scale
        capped = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
        if cap := next((c for name in capped if (c := getattr(self.config, name, None))), None):
            logits_N_V = torch.tanh(logits_N_V / cap) * cap
        return logits_N_V.float()

    def logprobs(self, hidden_N_H: Tensor, targets_N: Tensor) -> Tensor:
        """log p(target) in nats, shape (N,)."""
        return self.read(hidden_N_H, targets_N, target_logprobs)

    def read(self, hidden_N_H: Tensor, targets_N: Tensor, reading: LogitsReader) -> Tensor:
        """The result of `reading` on the logits of each position; its first dimension is N.

        Computed in pieces, and recomputed for the gradient, so that memory stays constant.
        """
        pieces = [
            slice(start, start + _PROJECTED_AT_ONCE)
            for start in range(0, len(targets_N), _PROJECTED_AT_ONCE)
        ]
        again = torch.is_grad_enabled() and len(pieces) > 1

        def piece(hidden: Tensor, targets: Tensor, which: slice) -> Tensor:
            return reading(self.logits(hidden), targets, which)

        parts = [
            checkpoint(piece, hidden_N_H[p], targets_N[p], p, use_reentrant=False)
            if again
            else piece(hidden_N_H[p], targets_N[p], p)
            for p in pieces
        ]
        return torch.cat(parts) if parts else hidden_N_H.new_zeros(0)


def branch_logprobs(network: Network, rows: Sequence[Row]) -> Logprobs:
    """Log-probabilities of the weighted tokens of rows that may share their beginning."""
    return _logprobs(network, branch_states(network, rows))


def branch_states(
    network: Network, rows: Sequence[Row], *, trunk: int | None = None
) -> TargetStates:
    """Hidden states before the weighted tokens of rows that may share their beginning.

    The trunk is the longest common beginning without weighted tokens, or `trunk` tokens. A single
    row, or rows without a common beginning, are a plain forward pass.
    """
    if trunk is None:
        trunk = trunk_length(rows) if network.shares_beginnings else 0
    prefix = network.start()
    if trunk:
        prefix, _ = network.extend(prefix, [rows[0].tokens[:trunk]], [0], left=True)
    return _continuation_states(
        network, prefix, [drop_start(row, trunk) for row in rows], [0] * len(rows)
    )


def tree_states(network: Network, groups: Sequence[Sequence[Row]]) -> TargetStates:
    """Hidden states of groups of rows: a trunk for all groups, and one per group.

    A pair of a chosen and a rejected answer, or k answers to one prompt, is a group.
    """
    trunks = [_common(group) for group in groups]
    rows = [row for group in groups for row in group]
    if len(groups) == 1 or min(trunks) < 2 or not network.shares_beginnings:
        return branch_states(network, rows)
    firsts = [group[0].tokens[:length] for group, length in zip(groups, trunks, strict=True)]
    # Every group keeps a token of its own, so that its last position is real.
    root = common_length(*(first[:-1] for first in firsts))
    start = network.start()
    if root:
        start, _ = network.extend(start, [firsts[0][:root]], [0], left=True)
    prefix, _ = network.extend(start, [f[root:] for f in firsts], [0] * len(firsts), left=True)
    branches = [
        drop_start(row, n) for group, n in zip(groups, trunks, strict=True) for row in group
    ]
    parents = [index for index, group in enumerate(groups) for _ in group]
    return _continuation_states(network, prefix, branches, parents)


def continuation_logprobs(
    network: Network, prefix: TrunkCache, rows: Sequence[Row], parents: Sequence[int]
) -> Logprobs:
    """Log-probabilities of the weighted tokens of rows that continue `prefix`."""
    return _logprobs(network, _continuation_states(network, prefix, rows, parents))


def _logprobs(network: Network, states: TargetStates) -> Logprobs:
    values_N = network.logprobs(states.hidden_N_H, states.targets_N)
    return Logprobs(values_N, states.weights_N, states.rows_N)


def _continuation_states(
    network: Network, prefix: TrunkCache, rows: Sequence[Row], parents: Sequence[int]
) -> TargetStates:
    hidden_B_L_H = _hidden(network, prefix, [row.tokens for row in rows], parents)
    # The token at position t is predicted at t - 1, the first one at the prefix's last token.
    return target_states(hidden_B_L_H, rows, before=0 if prefix.last_B_H is not None else 1)


def target_states(hidden_B_L_H: Tensor, rows: Sequence[Row], *, before: int) -> TargetStates:
    """The hidden states that predict weighted tokens, `before` positions ahead of each token."""
    device = hidden_B_L_H.device
    pairs = [(r, t) for r, row in enumerate(rows) for t, w in enumerate(row.weights) if w]
    rows_N = tensor_on(device, [r for r, _ in pairs], torch.long)
    position_N = tensor_on(device, [t for _, t in pairs], torch.long)
    targets_N = tensor_on(device, [rows[r].tokens[t] for r, t in pairs], torch.long)
    weights_N = tensor_on(device, [rows[r].weights[t] for r, t in pairs])
    return TargetStates(hidden_B_L_H[rows_N, position_N - before], targets_N, weights_N, rows_N)


def _hidden(
    network: Network, prefix: TrunkCache, rows: Sequence[Tokens], parents: Sequence[int]
) -> Tensor:
    """Hidden states (B, L, H), with the prefix's last one first if there is one."""
    if prefix.last_B_H is None:
        return network.extend(prefix, rows, parents, left=False)[1]
    last_B_H = prefix.last_B_H[tensor_on(network.device, parents)]
    # A row's last token predicts nothing, so a branch of one token needs no forward pass at all.
    rows = [row[:-1] for row in rows]
    if not any(rows):
        return last_B_H[:, None]
    _, hidden_B_L_H = network.extend(prefix, rows, parents, left=False)
    return torch.cat([last_B_H[:, None], hidden_B_L_H], dim=1)


def common_start(network: Network, rows: Sequence[Tokens]) -> tuple[int, TrunkCache]:
    """Runs the common beginning of all rows but their last tokens; returns its length and cache."""
    if len(rows) < 2 or not network.shares_beginnings:
        return 0, network.start()
    if not (root := common_length(*(row[:-1] for row in rows))):
        return 0, network.start()
    return root, network.extend(network.start(), [rows[0][:root]], [0], left=True)[0]


def trunk_length(rows: Sequence[Row]) -> int:
    """Length of the common beginning without weighted tokens; every branch keeps a token."""
    if len(rows) < 2:
        return 0
    return _common(rows)


def _common(rows: Sequence[Row]) -> int:
    limit = min(min(_first_weighted(row), len(row.tokens) - 1) for row in rows)
    return common_length(*(row.tokens[:limit] for row in rows))


def common_length(*sequences: Tokens) -> int:
    """Length of the longest common beginning."""
    # The smallest and the largest sequence in dictionary order differ first of all.
    low, high = list(min(sequences, key=list)), list(max(sequences, key=list))
    for index, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return index
    return min(len(low), len(high))


def drop_start(row: Row, length: int) -> Row:
    """The row without its first `length` tokens."""
    return Row(row.tokens[length:], row.weights[length:])


def _first_weighted(row: Row) -> int:
    return next((t for t, weight in enumerate(row.weights) if weight), len(row.tokens))
