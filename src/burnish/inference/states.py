"""What a model keeps of a row between two passes, in transformers' own form: copied, joined, split.

A state is what the model returns for its next pass: a cache with layers of keys and values, of
recurrent and convolutional states, or of both; a cache class of the family's own; or a list of
tensors (RWKV). Its tensors have the rows as their first dimension.

Keys and values of rows of unequal length are joined with padding at the left, which a mask hides;
recurrent states have no length, so they are joined as they are, and padding never enters them.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.cache_utils import DummyLayer, DynamicLayer


class NotJoinableError(Exception):
    """The states of these rows do not fit beside each other."""


@dataclass(frozen=True, slots=True)
class _Merge:
    """How values that stand at the same place of several states become one."""

    tensor: Callable[[Sequence[Tensor]], Tensor]
    attention: Callable[[Sequence[Any]], Any]
    other: Callable[[Sequence[Any]], Any] = lambda values: values[0]

    def __call__(self, values: Sequence[Any]) -> Any:
        """The merged value."""
        first = values[0]
        if isinstance(first, Tensor):
            return self.tensor(values)
        if isinstance(first, dict):
            return {key: self([value[key] for value in values]) for key in first}
        if isinstance(first, list | tuple):
            if len({len(value) for value in values}) > 1:
                raise NotJoinableError
            return type(first)(map(self, zip(*values, strict=True)))
        if isinstance(first, DynamicLayer):
            return self.attention(values)
        return self.fields(values) if _has_fields(first) else self.other(values)

    def fields(self, values: Sequence[Any], but: Sequence[str] = ()) -> Any:
        """A copy of the first object with merged fields."""
        result = copy.copy(values[0])
        for name in vars(result):
            if name not in but:
                result.__dict__[name] = self([vars(value)[name] for value in values])
        return result


def _has_fields(value: Any) -> bool:
    atoms = (PreTrainedConfig, nn.Module, type)
    return hasattr(value, "__dict__") and not isinstance(value, atoms) and not callable(value)


def copy_state(state: Any) -> Any:
    """A copy that shares no memory with the state."""
    clone = _Merge(lambda values: values[0].clone(), lambda values: clone.fields(values))
    return clone([state])


def join(states: Sequence[Any]) -> Any:
    """The states of single rows as that of a batch.

    Raises:
        NotJoinableError: they have other sizes, or counts that differ.
    """

    def attention(layers: Sequence[Any]) -> Any:
        """Keys and values padded at the left; a window counts as the longest row does."""
        sizes = [0 if layer.keys is None else layer.keys.shape[-2] for layer in layers]
        if not all(sizes):
            if any(sizes):
                raise NotJoinableError
            return merge.fields(layers)
        result = merge.fields(layers, ("keys", "values", "cumulative_length"))
        for name in ("keys", "values"):
            own = [getattr(layer, name) for layer in layers]
            size = max(sizes)
            result.__dict__[name] = torch.cat(
                [functional.pad(each, (0, 0, size - each.shape[-2], 0)) for each in own]
            )
        if hasattr(result, "cumulative_length"):
            result.cumulative_length = max(layer.cumulative_length for layer in layers)
        return result

    merge = _Merge(_concatenated, attention, _the_same)
    return merge(states)


def _concatenated(tensors: Sequence[Tensor]) -> Tensor:
    if tensors[0].dim() == 0:  # a setting of the layer, the same in all
        return tensors[0]
    if any(each.shape != tensors[0].shape or each.shape[0] != 1 for each in tensors):
        raise NotJoinableError
    return torch.cat(list(tensors))


def _the_same(values: Sequence[Any]) -> Any:
    if any(value != values[0] for value in values):
        raise NotJoinableError
    return values[0]


def split(batch: Any, index: int, length: int) -> Any:
    """The state of row `index` of a batch, `length` tokens long; it looks at the batch's memory."""

    def attention(layers: Sequence[Any]) -> Any:
        """Its own keys and values, without the padding at the left."""
        result = merge.fields(layers)
        if hasattr(result, "cumulative_length"):
            result.cumulative_length = length
        if result.keys is not None:
            result.keys, result.values = (
                _end(each, length) for each in (result.keys, result.values)
            )
        return result

    def one(tensors: Sequence[Tensor]) -> Tensor:
        """The row's part."""
        return tensors[0] if tensors[0].dim() == 0 else tensors[0].narrow(0, index, 1)

    merge = _Merge(one, attention)
    return merge([batch])


def _end(x_B_H_P_D: Tensor, length: int) -> Tensor:
    size = min(length, x_B_H_P_D.shape[-2])
    return x_B_H_P_D.narrow(-2, x_B_H_P_D.shape[-2] - size, size)


def snapshot(state: Any) -> Any:
    """A copy of what only the end of a row has; keys and values of all places are left out."""

    def attention(layers: Sequence[Any]) -> Any:
        """A layer that forgets nothing is cut when it is restored."""
        if type(layers[0]) is DynamicLayer:
            return DynamicLayer()
        return merge.fields(layers)

    merge = _Merge(lambda tensors: tensors[0].clone(), attention)
    return merge([state])


def restore(kept: Any, state: Any, length: int) -> Any:
    """The state of a row's first `length` tokens: its snapshot there and its state now."""

    def attention(layers: Sequence[Any]) -> Any:
        """Of a layer that forgets nothing, the beginning."""
        if type(layers[0]) is not DynamicLayer:
            return merge.fields(layers)
        result = merge.fields([layers[1]], ("keys", "values"))
        if result.keys is not None:
            result.keys = layers[1].keys[..., :length, :].clone()
            result.values = layers[1].values[..., :length, :].clone()
        return result

    merge = _Merge(lambda tensors: tensors[0].clone(), attention)
    return merge([kept, state])


def forgets_nothing(state: Any) -> bool:
    """Whether all of the state are keys and values of every place, so that it can be cut."""
    layers = getattr(state, "layers", None)
    if not layers or any(type(layer) not in (DynamicLayer, DummyLayer) for layer in layers):
        return False
    return sum(map(_bytes, _tensors(layers))) == sum(map(_bytes, _tensors(state)))


def state_bytes(state: Any) -> tuple[int, int]:
    """Bytes of the state's keys and values, and of all else."""
    attention = [layer for layer in getattr(state, "layers", ()) if isinstance(layer, DynamicLayer)]
    grows = sum(
        _bytes(each)
        for layer in attention
        for each in (layer.keys, layer.values)
        if each is not None
    )
    return grows, sum(map(_bytes, _tensors(state))) - grows


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif _has_fields(value):
        yield from _tensors(vars(value))
