"""The cache of a trunk or a prompt, which branches and new tokens continue.

Operations on caches by kind of layer: keys and values have a column for each token, states have
none. None of them changes a tensor in place, so gradients flow through all of them.

Shapes: B rows, T columns, H hidden size.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Cache
from transformers.cache_utils import LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

# Tensors of a layer with a column for each token: the dimensions of rows and columns.
_COLUMNS = {
    "keys": (0, 2),
    "values": (0, 2),
    "indexer_keys": (0, 1),
    "indexer_position_ids": (1, 2),
}
# Tensors of a layer without columns, several in a dictionary each; rows are dimension 0.
_STATES = ("conv_states", "recurrent_states")


@dataclass(frozen=True, slots=True)
class TrunkCache:
    """The cache of some rows, the mask of their real tokens and their last hidden states.

    Padding is at the left of a row's first token and nowhere else, so that the distance of two
    columns is the distance of their tokens. `mask_B_T` is always on the CPU. `tokens` are those of
    each row, where a model's cache may have to be computed again; else they are empty.
    """

    cache: Cache | None
    mask_B_T: Tensor
    last_B_H: Tensor | None
    tokens: tuple[tuple[int, ...], ...] = ((),)

    @property
    def padded(self) -> bool:
        """Whether some positions are padding."""
        return not bool(self.mask_B_T.all())


class States(LinearAttentionLayer):  # type: ignore[misc]
    """Recurrent and convolutional states; a new state replaces the old one.

    The original copies into the old tensor, which the backward pass may still need.
    """

    def update_recurrent_state(
        self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any
    ) -> Tensor:
        """Stores the new state and returns it."""
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states


class StatesAndAttention(States, LinearAttentionAndFullAttentionLayer):  # type: ignore[misc]
    """A layer with states beside keys and values of all tokens."""


def expand_cache(cache: Cache, index_B: Tensor) -> Cache:
    """The cache with its rows repeated; the gradients of the copies add up in the original."""

    def repeat(tensor: Tensor, rows: int, has_columns: bool) -> Tensor:
        if has_columns and rows == 0 and tensor.shape[0] == 1:
            # A view costs no memory; the next update copies once.
            return tensor.expand(len(index_B), *tensor.shape[1:])
        return tensor.index_select(rows, index_B)

    return _mapped(cache, repeat)


def align_right(cache: Cache, source_B_T: Tensor) -> None:
    """Moves the columns of each row: column t becomes what was column `source_B_T[b, t]`."""
    rows_B_1 = torch.arange(len(source_B_T), device=source_B_T.device)[:, None]
    for layer in cache.layers:
        for name, dims in _COLUMNS.items():
            if (tensor := _tensor(layer, name)) is not None:
                moved = tensor.movedim(dims, (0, 1))[rows_B_1, source_B_T]
                setattr(layer, name, moved.movedim((0, 1), dims))


def join_caches(caches: Sequence[Cache], order_B: Tensor, columns: int) -> Cache:
    """One cache with the rows of all `caches`, padded at the left to `columns` tokens.

    Row b of the result is row `order_B[b]` of the caches' rows, counted through.
    """
    joined = _mapped(caches[0], lambda tensor, *_: tensor)
    for number, layer in enumerate(joined.layers):
        parts = [cache.layers[number] for cache in caches]
        for name, (rows, column) in _COLUMNS.items():
            if _tensor(layer, name) is not None:
                padded = [_pad_left(getattr(p, name), column, columns) for p in parts]
                setattr(layer, name, torch.cat(padded, rows).index_select(rows, order_B))
        for name in _STATES:
            for state, tensor in getattr(layer, name, {}).items():
                if tensor is not None:
                    whole = torch.cat([getattr(p, name)[state] for p in parts])
                    getattr(layer, name)[state] = whole.index_select(0, order_B)
    return joined


def _pad_left(tensor: Tensor, dimension: int, size: int) -> Tensor:
    missing = size - tensor.shape[dimension]
    after = tensor.ndim - 1 - dimension
    return functional.pad(tensor, (0, 0) * after + (missing, 0)) if missing else tensor


def _tensor(layer: Any, name: str) -> Tensor | None:
    """A layer's tensor with columns; None if the layer has none, or no tokens yet."""
    tensor: Tensor | None = getattr(layer, name, None)
    return tensor if tensor is not None and tensor.numel() else None


def _mapped(cache: Cache, change: Callable[[Tensor, int, bool], Tensor]) -> Cache:
    """A copy of the cache whose tensors are `change(tensor, dimension of rows, has columns)`."""
    result = copy.copy(cache)
    result.layers = [_mapped_layer(layer, change) for layer in cache.layers]
    return result


def _mapped_layer(layer: Any, change: Callable[[Tensor, int, bool], Tensor]) -> Any:
    result = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(result, name, dict(value))
    for name, (rows, _) in _COLUMNS.items():
        if (tensor := _tensor(layer, name)) is not None:
            setattr(result, name, change(tensor, rows, True))
    for name in _STATES:
        for state, tensor in getattr(layer, name, {}).items():
            if tensor is not None:
                getattr(result, name)[state] = change(tensor, 0, False)
    return result
