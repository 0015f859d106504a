"""What has been computed of some rows, ready to be continued: a trunk, or a prompt so far."""

from dataclasses import dataclass

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from burnish.errors import ModelError


@dataclass(frozen=True, slots=True)
class TrunkCache:
    """What has been computed so far: the cache, which places hold tokens, the last hidden state.

    `mask_B_T` is on the CPU, wherever the model is. Without a cache nothing can be continued.
    """

    cache: DynamicCache | None
    mask_B_T: Tensor
    last_B_H: Tensor | None

    @property
    def padded(self) -> bool:
        return not bool(self.mask_B_T.all())


def expand_cache(cache: DynamicCache, index_B: Tensor) -> DynamicCache:
    """The cache with its rows repeated; gradients of the copies add up in the original."""
    expanded = DynamicCache()
    for layer in cache.layers:
        if type(layer) is not DynamicLayer:
            raise ModelError(
                f"the model keeps a {type(layer).__name__}, which cannot branch",
                "use a model whose layers are plain attention",
                code="cache_cannot_branch",
                layer=type(layer).__name__,
            )
        expanded.layers.append(_expand_layer(layer, index_B))
    return expanded


def _expand_layer(layer: DynamicLayer, index_B: Tensor) -> DynamicLayer:
    copy = DynamicLayer()
    copy.lazy_initialization(layer.keys, layer.values)
    if layer.keys.shape[0] == 1:  # a view costs no memory; the next update copies once
        size = (len(index_B), -1, -1, -1)
        copy.keys, copy.values = layer.keys.expand(size), layer.values.expand(size)
    else:
        copy.keys, copy.values = layer.keys[index_B], layer.values[index_B]
    return copy
