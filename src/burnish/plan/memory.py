"""Computes the memory of a training step from the model's shapes and one batch.

    total = program + weights + gradients + optimizer + activations + trunk + vocabulary + workspace

where the model has N parameters, n of them trainable, s bytes per number (t per trainable one), K
layers with keys and values of size k, and V words, and the largest forward pass has C computed
tokens, B rows on a trunk of T tokens, and m trained tokens:

    weights      (N - n - q) s + n t + 0.516 q   q parameters in 4 bits, with their scales
    gradients    n t
    optimizer    2 n t                  AdamW's two moments
    activations  c + a C + b C^2 / B    what autograd saves for the backward pass
    trunk        2 K k s B T            keys and values, copied once for every branch
    vocabulary   3 x 4 V min(m, 512)    logits, their softmax, its gradient, in float32 pieces
    workspace    the largest matrix in 4 bits, as it is written out for a product

The weights of an adapter are trained in float32. `a`, `b` and `c` are counted, not guessed: the
model is copied without its numbers and run on L, 2 L and 4 L tokens, while hooks add up every
tensor that autograd keeps; three sums give the constant, the linear and the quadratic part. The
quadratic one is the weights of attention, which fused attention kernels do not keep, so it counts
only where a model has no such kernel. With activation checkpointing only the input of each layer is
kept, and one layer's activations at a time: C K H s more than 1 / K of the whole (Chen et al. 2016,
arXiv 1604.06174); rows then share no trunk. Compare Korthikanti et al. 2022 (arXiv 2205.05198),
section 4, for a by hand.
"""

import contextlib
import copy
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from burnish.models.branches import trunk_length
from burnish.models.fused_lora import fused_lora
from burnish.models.layers import backbone_of
from burnish.preflight.base import rows_in

_PROJECTED_AT_ONCE = 512
_COUNTED_TOKENS = 16
# Memory of a CUDA context and its libraries before the first tensor.
CUDA_CONTEXT = 600 * 2**20
# Bytes of a weight in 4 bits with its share of the doubly quantised scales (arXiv 2305.14314,
# section 3: 0.127 bits a weight).
_FOUR_BITS = (4 + 0.127) / 8


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

    def without_trunk(self) -> "Batch":
        """The same rows, each computed from its first token."""
        own = self.computed - self.trunk
        return replace(self, trunk=0, computed=own + self.rows * self.trunk)

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
    trained_number: int = 0  # bytes of one trainable number; 0: as the other weights
    once: int = 0  # activations that do not depend on the tokens
    square: float = 0.0  # activations for each pair of tokens of a row
    four_bit: int = 0  # parameters in 4 bits
    workspace: int = 0

    @classmethod
    def of(
        cls,
        model: Any,
        config: Any,
        dtype: torch.dtype,
        *,
        trained: torch.dtype | None = None,
        fused: bool = True,
    ) -> "Shapes":
        """Measures the shapes on a copy without data, in the number formats of the training.

        `trained` is the format of what is trained, where it is another one than `dtype`. Layers in
        4 bits are not `fused` with their adapters.
        """
        queries = getattr(config, "num_attention_heads", 0)  # a state-space model has none
        heads = _largest(getattr(config, "num_key_value_heads", None) or queries)
        size = getattr(config, "head_dim", None) or config.hidden_size // max(_largest(queries), 1)
        counted = saved_activations(model, dtype, trained, fused=fused)
        is_eager = getattr(config, "_attn_implementation", None) == "eager"
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            learning=sum(p.numel() for p in model.parameters() if p.requires_grad),
            number=dtype.itemsize,
            token=counted.token,
            layers=int(config.num_hidden_layers),
            hidden=int(config.hidden_size),
            key_value=int(heads * size),
            vocabulary=int(config.vocab_size),
            trained_number=(trained or dtype).itemsize,
            once=counted.once,
            square=counted.square if is_eager else 0.0,
        )

    def in_four_bits(self, weights: Sequence[int]) -> "Shapes":
        """Returns the shapes with matrices of these sizes in 4 bits."""
        largest = max(weights, default=0) * self.number
        return replace(self, four_bit=sum(weights), workspace=largest)

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
    workspace: int = 0

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def memory(
    shapes: Shapes, batch: Batch, *, program: int = 0, checkpointing: bool = False
) -> Memory:
    """Computes the peak memory of a training step on a batch by the formulas above."""
    trained = shapes.trained_number or shapes.number
    frozen = shapes.parameters - shapes.learning - shapes.four_bit
    learning = shapes.learning * trained
    batch = batch.without_trunk() if checkpointing else batch
    # Each row's own tokens look at themselves and at the trunk.
    own = (batch.computed - batch.trunk) / batch.rows
    pairs = batch.trunk**2 + batch.rows * own * (own + batch.trunk)
    activations = shapes.once + shapes.token * batch.computed + shapes.square * pairs
    if checkpointing:
        inputs = shapes.layers * shapes.hidden * shapes.number * batch.computed
        activations = inputs + activations / shapes.layers
    keys = 2 * shapes.layers * shapes.key_value * shapes.number
    return Memory(
        program=program,
        weights=round(frozen * shapes.number + learning + shapes.four_bit * _FOUR_BITS),
        gradients=learning,
        optimizer=2 * learning,
        activations=round(activations),
        trunk=keys * batch.rows * batch.trunk,
        vocabulary=3 * 4 * shapes.vocabulary * min(batch.learnt, _PROJECTED_AT_ONCE),
        workspace=shapes.workspace,
    )


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes that autograd saves: in each pass, for each token, and for each pair of tokens."""

    once: int
    token: float
    square: float


def saved_activations(
    model: Any, dtype: torch.dtype, trained: torch.dtype | None = None, *, fused: bool = True
) -> Activations:
    """Counts what autograd saves in a pass through the layers in these number formats.

    A model with layers that read values, such as some routers, is run itself instead of its copy.
    """
    size = _COUNTED_TOKENS
    try:
        with FakeTensorMode():
            bare = _without_numbers(model, dtype, trained or dtype)
            one, two, four = _kept_in_passes(bare, fused=fused)
    except (RuntimeError, ValueError):
        training, share = model.training, dtype.itemsize / model.dtype.itemsize
        with torch.random.fork_rng(devices=[]):
            counts = _kept_in_passes(model.train(), fused=fused)
        one, two, four = (round(share * kept) for kept in counts)
        model.train(training)
    square = (four - 3 * two + 2 * one) / (6 * size**2)
    token = (two - one) / size - 3 * square * size
    return Activations(max(0, round(one - token * size - square * size**2)), token, square)


def _kept_in_passes(model: Any, *, fused: bool) -> list[int]:
    """Bytes kept in passes over 1, 2 and 4 times the counted tokens."""
    with fused_lora(model) if fused else contextlib.nullcontext():
        return [_saved_bytes(model, times * _COUNTED_TOKENS) for times in (1, 2, 4)]


def _largest(value: int | Sequence[int]) -> int:
    """A number of the configuration, or the largest where each layer has its own."""
    return int(value) if isinstance(value, int) else max(value, default=0)


def _without_numbers(model: Any, dtype: torch.dtype, trained: torch.dtype) -> Any:
    """Returns a copy that has shapes but no data."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        chosen = trained if parameter.requires_grad else dtype
        bare = torch.empty(parameter.shape, dtype=chosen)
        memo[id(parameter)] = nn.Parameter(bare, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        # Tables of positions stay in float32; they are the only buffers that models save.
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
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
    if isinstance(next(base.parameters()).data, FakeTensor):
        # transformers would read values to make a mask, but the copy has none.
        mask = torch.zeros(1, 1, tokens, tokens, dtype=base.dtype)
    with (
        warnings.catch_warnings(),
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        warnings.simplefilter("ignore")
        backbone_of(base)(input_ids=tokens_1_L, attention_mask=mask, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
