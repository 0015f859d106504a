"""The key/value cache of a trunk or a prompt, which branches and new tokens continue."""

from dataclasses import dataclass

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from burnish.errors import ModelError


@dataclass(frozen=True, slots=True)
class TrunkCache:
    """The cache of some rows, the mask of their real tokens and their last hidden states.

    `mask_B_T` is always on the CPU. Without a cache the rows cannot be continued.
    """

    cache: DynamicCache | None
    mask_B_T: Tensor
    last_B_H: Tensor | None

    @property
    def padded(self) -> bool:
        """Whether some positions are padding."""
        return not bool(self.mask_B_T.all())


def expand_cache(cache: DynamicCache, index_B: Tensor) -> DynamicCache:
    """The cache with its rows repeated; the gradients of the copies add up in the original."""
    expanded = DynamicCache()
    for layer in cache.layers:
        if type(layer) is not DynamicLayer:
            raise ModelError(
                f"the model's cache has a {type(layer).__name__}, which branches cannot share",
                "use a model with plain attention layers",
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
