"""Which cache a model family has, and whether rows can be continued from it exactly.

A cache of keys and values has an entry for each token, so rows of unequal length can share it with
a mask. A recurrent or convolutional state is one summary of all tokens before: it can be copied,
but a padding token would change it. A few families keep neither in a form that can be copied.

The kind is read from the layers of the family's cache. For all but keys and values, a short
comparison with the plain forward pass decides what the cache is used for.
"""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import (
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from burnish.models.layers import backbone_of
from burnish.models.trunk_cache import States, StatesAndAttention, expand_cache

# Relative difference of hidden states between two orders of the same sums.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_HALF_PRECISION = 5e-2
# Tokens of the comparison: a trunk, and what follows it in two rows.
_TRUNK, _BRANCHES, _OTHER = [3, 1, 4, 1, 5], [[2, 6, 3], [5, 3, 7]], [2, 7, 1, 8]
# What a family's own code raises where it cannot use a cache in this way.
_REFUSALS = (
    TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError, AssertionError,
)  # fmt: skip


class Continues(IntEnum):
    """How many tokens at once continue a cache with the same result as a plain forward pass."""

    NOTHING = 0
    ONE_TOKEN = 1
    TOKENS = 2


@dataclass(frozen=True, slots=True)
class CacheKind:
    """What the cache of a model family holds.

    Attributes:
        argument: name of the backbone's argument for the cache; empty if it takes no known cache.
        positions: whether the backbone takes the positions of tokens.
        plain: whether every layer has keys and values of all tokens and nothing else.
        trusted: whether the family needs no comparison with plain forward passes.
        recurrent: whether a layer has states, which padding would change.
        attends: whether a layer attends to tokens, which takes a mask of those that are padding.
    """

    argument: str
    positions: bool
    plain: bool
    trusted: bool
    recurrent: bool
    attends: bool


_KINDS: "WeakKeyDictionary[Any, CacheKind]" = WeakKeyDictionary()
_CONTINUES: "WeakKeyDictionary[Any, Continues]" = WeakKeyDictionary()
_PACKS: "WeakKeyDictionary[Any, bool]" = WeakKeyDictionary()


def cache_kind(model: Any) -> CacheKind:
    """The kind of cache of a transformers model, determined once for each model."""
    if (kind := _KINDS.get(model)) is None:
        kind = _KINDS[model] = _read_kind(model)
    return kind


def _read_kind(model: Any) -> CacheKind:
    parameters = inspect.signature(type(backbone_of(model)).forward).parameters
    names = [name for name in ("past_key_values", "cache_params") if name in parameters]
    try:
        layers = DynamicCache(config=model.config).layers
    except _REFUSALS:
        layers = []
    kinds = {type(layer) for layer in layers}
    states = {
        LinearAttentionLayer,
        LinearAttentionAndFullAttentionLayer,
        LinearAttentionAndSlidingWindowAttentionLayer,
    }
    attention = {DynamicLayer, DynamicSlidingWindowLayer}
    known = bool(layers) and kinds <= states | attention | {DummyLayer, DynamicIndexedLayer}
    inside = bool(getattr(model, "_is_stateful", False))  # may keep states in its modules
    return CacheKind(
        argument=names[0] if names and known else "",
        positions="position_ids" in parameters,
        plain=bool(names) and bool(layers) and kinds <= attention and not inside,
        trusted=bool(names) and bool(layers) and kinds <= attention | {DummyLayer} and not inside,
        recurrent=bool(kinds & states) or inside,
        attends=kinds != {LinearAttentionLayer},
    )


def new_cache(model: Any) -> Cache:
    """An empty cache for the model, in which layers with a window keep all tokens.

    Windows are then a matter of the attention mask alone, for any length and any padding.
    """
    if cache_kind(model).plain:
        return DynamicCache()
    cache = DynamicCache(config=model.config)
    cache.layers = [_own_layer(layer) for layer in cache.layers]
    return cache


def _own_layer(layer: Any) -> Any:
    hybrid = (LinearAttentionAndFullAttentionLayer, LinearAttentionAndSlidingWindowAttentionLayer)
    if isinstance(layer, hybrid):
        return StatesAndAttention(number_of_states=layer.number_of_states)
    if type(layer) is LinearAttentionLayer:
        return States(number_of_states=layer.number_of_states)
    return DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer


def run_backbone(
    model: Any,
    tokens_B_L: Tensor,
    positions_B_L: Tensor,
    *,
    mask_B_K: Tensor | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """Hidden states (B, L, H) of new tokens after those in the cache, which is extended."""
    kind = cache_kind(model)
    inputs: dict[str, Any] = {"input_ids": tokens_B_L, "use_cache": cache is not None}
    if kind.positions:
        inputs["position_ids"] = positions_B_L
    if mask_B_K is not None and kind.attends:
        inputs["attention_mask"] = mask_B_K
    if cache is not None:
        inputs[kind.argument] = cache
    hidden_B_L_H: Tensor = backbone_of(model)(**inputs).last_hidden_state
    return hidden_B_L_H


def continues(model: Any) -> Continues:
    """How a cache of the model can be continued, compared with plain passes once for each model."""
    kind = cache_kind(model)
    if kind.trusted:
        return Continues.TOKENS
    if not kind.argument:
        return Continues.NOTHING
    if (result := _CONTINUES.get(model)) is None:
        result = _CONTINUES[model] = _compare(model)
    return result


def packs(model: Any) -> bool:
    """Whether rows one after the other, with positions that restart, do not see each other.

    Compared with separate rows, once for each model: some families make no block mask.
    """
    kind = cache_kind(model)
    if not kind.trusted or not kind.positions:
        return False
    if (result := _PACKS.get(model)) is None:
        with _evaluating(model):
            result = _PACKS[model] = _packed_agrees(model)
    return result


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Disables gradients and dropout; afterwards every module is in its mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _compare(model: Any) -> Continues:
    with _evaluating(model):
        if not _agrees(model, 1):
            return Continues.NOTHING
        return Continues.TOKENS if _agrees(model, 3) else Continues.ONE_TOKEN


def _agrees(model: Any, new: int) -> bool:
    """Whether two rows after a shared trunk, `new` tokens at once, equal two plain passes."""
    device, size = model.device, len(_TRUNK)
    vocabulary = model.config.get_text_config().vocab_size
    rows = [[*_TRUNK, *branch] for branch in _BRANCHES]
    tokens_B_L = torch.tensor(rows, device=device) % vocabulary
    positions_B_L = torch.arange(tokens_B_L.shape[1], device=device).expand(len(rows), -1)
    plain_B_L_H = run_backbone(model, tokens_B_L, positions_B_L)
    trunk, other = new_cache(model), new_cache(model)
    try:
        run_backbone(model, tokens_B_L[:1, :size], positions_B_L[:1, :size], cache=trunk)
        # A pass over another row in between shows states that are kept outside of the cache.
        other_1_L = torch.tensor([_OTHER], device=device) % vocabulary
        run_backbone(model, other_1_L, positions_B_L[:1, : len(_OTHER)], cache=other)
        cache = expand_cache(trunk, torch.zeros(len(rows), dtype=torch.long, device=device))
        parts = [
            run_backbone(
                model, tokens_B_L[:, t : t + new], positions_B_L[:, t : t + new], cache=cache
            )
            for t in range(size, tokens_B_L.shape[1], new)
        ]
    except _REFUSALS:
        return False
    return _close(torch.cat(parts, dim=1), plain_B_L_H[:, size:])


def _packed_agrees(model: Any) -> bool:
    device = model.device
    vocabulary = model.config.get_text_config().vocab_size
    rows = [torch.tensor([row], device=device) % vocabulary for row in (_TRUNK, _OTHER)]
    places = [torch.arange(row.shape[1], device=device)[None] for row in rows]
    alone = [run_backbone(model, row, place) for row, place in zip(rows, places, strict=True)]
    packed = run_backbone(model, torch.cat(rows, dim=1), torch.cat(places, dim=1))
    return _close(packed, torch.cat(alone, dim=1))


def _close(hidden: Tensor, expected: Tensor) -> bool:
    tolerance = _TOLERANCE.get(expected.dtype, _HALF_PRECISION)
    return bool((hidden - expected).abs().max() <= tolerance * expected.abs().max())
