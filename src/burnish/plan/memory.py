"""Computes the memory of a training step from the model's shapes and one batch.

    total = program + weights + gradients + optimizer + activations + trunk + vocabulary

where the model has N parameters, n of them trainable, s bytes per number, K layers with keys and
values of size k, and V words, and the largest forward pass has C computed tokens, B rows on a trunk
of T tokens, and m trained tokens:

    weights      N s
    gradients    n s
    optimizer    2 n s                  AdamW's two moments
    activations  a C                    a: bytes per token saved for the backward pass
    trunk        2 K k s B T            keys and values, copied once for every branch
    vocabulary   3 x 4 V min(m, 512)    logits, their softmax, its gradient, in float32 pieces

`a` is counted, not guessed: the model is copied without its numbers (torch's meta device) and run
on L and 2 L tokens, while hooks add up every tensor that autograd keeps. Twice the first sum less
half the second leaves out what grows with L squared, the attention weights, which the fused
attention kernels do not keep. With gradient checkpointing only the input of each layer is kept,
and one layer's activations at a time: a becomes K H s + a / K (Chen et al. 2016, arXiv
1604.06174). Compare Korthikanti et al. 2022 (arXiv 2205.05198), section 4, for a by hand.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from burnish.models.branches import trunk_length
from burnish.models.layers import backbone_of
from burnish.preflight.base import rows_in

_PROJECTED_AT_ONCE = 512
_COUNTED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Sizes of one forward pass: rows, trunk tokens, computed tokens and trained tokens."""

    rows: int
    trunk: int
    computed: int
    learnt: int

    @classmethod
    def of(cls, items: Sequence[Any]) -> "Batch":
        """Counts rows with their shared trunk, or, without rows, items padded to one size."""
        rows = rows_in(list(items))
        learnt = sum(item.learnt for item in items)
        if not rows:
            longest = max(item.size for item in items)
            return cls(len(items), 0, len(items) * longest, learnt)
        trunk = trunk_length(rows)
        own = max(row.size for row in rows) - trunk
        return cls(len(rows), trunk, trunk + len(rows) * own, learnt)

    def of_rows(self, rows: int) -> "Batch":
        """The same batch with another number of rows of the same length."""
        own = (self.computed - self.trunk) / self.rows
        trunk = self.trunk if rows > 1 else 0
        computed = round(trunk + rows * (own + self.trunk - trunk))
        return Batch(rows, trunk, computed, max(1, round(self.learnt * rows / self.rows)))

    def of_length(self, share: float) -> "Batch":
        """The same batch with every row cut to a share of its length."""
        sizes = (round(size * share) for size in (self.trunk, self.computed, self.learnt))
        return Batch(self.rows, *sizes)


@dataclass(frozen=True, slots=True)
class Shapes:
    """The numbers of a model that determine its memory, in bytes if no comment says otherwise."""

    parameters: int
    learning: int
    number: int  # bytes of one number of the weights
    token: float  # activations of one token that are saved for the backward pass
    layers: int
    hidden: int  # numbers
    key_value: int  # numbers of one token's keys, the same for its values, in one layer
    vocabulary: int  # words

    @classmethod
    def of(cls, model: Any, config: Any, dtype: torch.dtype) -> "Shapes":
        """Measures the shapes on a copy without data, in the number format of the training."""
        queries = getattr(config, "num_attention_heads", 0)  # a state-space model has none
        heads = _largest(getattr(config, "num_key_value_heads", None) or queries)
        size = getattr(config, "head_dim", None) or config.hidden_size // max(_largest(queries), 1)
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            learning=sum(p.numel() for p in model.parameters() if p.requires_grad),
            number=dtype.itemsize,
            token=activation_bytes_per_token(model, dtype),
            layers=int(config.num_hidden_layers),
            hidden=int(config.hidden_size),
            key_value=int(heads * size),
            vocabulary=int(config.vocab_size),
        )

    def with_lora(self, rank: int) -> "Shapes":
        """Returns the shapes of the same model with LoRA adapters of about that rank.

        Each layer has seven adapters of about 2 H (rank) numbers; those of the MLP are larger.
        """
        return replace(self, learning=self.layers * 7 * 3 * self.hidden * rank)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a training step by purpose."""

    program: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    trunk: int
    vocabulary: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def memory(
    shapes: Shapes, batch: Batch, *, program: int = 0, checkpointing: bool = False
) -> Memory:
    """Computes the peak memory of a training step on a batch by the formulas above."""
    learning = shapes.learning * shapes.number
    token = shapes.token
    if checkpointing:
        token = shapes.layers * shapes.hidden * shapes.number + shapes.token / shapes.layers
    keys = 2 * shapes.layers * shapes.key_value * shapes.number
    return Memory(
        program=program,
        weights=shapes.parameters * shapes.number,
        gradients=learning,
        optimizer=2 * learning,
        activations=round(token * batch.computed),
        trunk=keys * batch.rows * batch.trunk,
        vocabulary=3 * 4 * shapes.vocabulary * min(batch.learnt, _PROJECTED_AT_ONCE),
    )


def activation_bytes_per_token(model: Any, dtype: torch.dtype) -> float:
    """Measures the bytes per token that autograd saves, without the part quadratic in length.

    A model with layers that read values, such as routers, is run itself instead of its copy.
    """
    try:
        bare = _without_numbers(model, dtype)
        once, twice = (
            _saved_bytes(bare, tokens) for tokens in (_COUNTED_TOKENS, 2 * _COUNTED_TOKENS)
        )
        share = 1.0
    except (RuntimeError, ValueError):
        training, share = model.training, dtype.itemsize / model.dtype.itemsize
        with torch.random.fork_rng(devices=[]):
            model.train()
            once, twice = (
                _saved_bytes(model, tokens) for tokens in (_COUNTED_TOKENS, 2 * _COUNTED_TOKENS)
            )
        model.train(training)
    return share * (2 * once - twice / 2) / _COUNTED_TOKENS


def _largest(value: int | Sequence[int]) -> int:
    """A number of the configuration, or the largest where each layer has its own."""
    return int(value) if isinstance(value, int) else max(value, default=0)


def _without_numbers(model: Any, dtype: torch.dtype) -> Any:
    """Returns a copy on the meta device, which has shapes but no data."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        bare = torch.empty_like(parameter, device="meta", dtype=dtype)
        memo[id(parameter)] = nn.Parameter(bare, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(model, memo).train()


def _saved_bytes(bare: Any, tokens: int) -> int:
    own = {parameter.untyped_storage()._cdata for parameter in bare.parameters()}
    saved: dict[int, Tensor] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            saved[storage] = tensor  # keeps it alive, else another storage could get its number
        return tensor

    base = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
    tokens_1_L = torch.zeros(1, tokens, dtype=torch.long, device=base.device)
    mask = None
    if base.device.type == "meta":
        # transformers would read values to make a mask, but meta tensors have none.
        mask = torch.zeros(1, 1, tokens, tokens, device="meta", dtype=base.dtype)
    with (
        warnings.catch_warnings(),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        warnings.simplefilter("ignore")
        backbone_of(base)(input_ids=tokens_1_L, attention_mask=mask, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
