"""Linear layers with weights in the memory layout that is fastest on a CPU.

On a CPU most of a step are products of a few rows with the weights. With weights that were packed
into blocks once, oneDNN needs a third to a half of the time of torch's usual product.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.models.onednn import onednn_linear

# The number of rows for which the layout is optimised; it is also fast for other numbers.
_ROWS = 32
# Pairs: up to this number of rows, the number is rounded up to a multiple of that.
_STEPS, _WIDEST = ((8, 1), (32, 4), (64, 8), (128, 16)), 32


@dataclass(frozen=True, slots=True)
class _PackedLayer:
    """A packed layer: its packed weight, and its former `forward` if that was replaced before.

    `unshared` means that no other module uses the original weight, which is freed then.
    """

    layer: nn.Linear
    weight: Tensor
    unshared: bool
    forward: Any


def padded_rows(rows: int) -> int:
    """Returns the number of rows to compute, padding included, for a number of real rows.

    oneDNN allocates memory for every number of rows that a layer ever gets, so without rounding a
    server would grow by hundreds of megabytes.
    """
    step = next((step for most, step in _STEPS if rows <= most), _WIDEST)
    return -(-rows // step) * step


class PackedLinears:
    """Packs the linear layers of a model until `close`; on other devices than a CPU, none.

    The original weights are freed, so that no more memory is needed: a layer's `weight` retains its
    shape, but its values are NaN. A weight that is also the embedding is not freed.

    Args:
        model: the model whose layers are packed.
        pads: whether each layer pads its own rows, so that `padding` is not needed.
        only: the layers to pack, as far as possible; None for all.
    """

    def __init__(
        self, model: nn.Module, *, pads: bool = False, only: Collection[nn.Module] | None = None
    ) -> None:
        self._linear = _padded_linear if pads else onednn_linear
        self._packed: list[_PackedLayer] = []
        owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
        for layer in model.modules():
            if _can_be_packed(layer) and (only is None or layer in only):
                self._pack(layer, unshared=owners[id(layer.weight)] == 1)

    def padding(self, rows: int) -> int:
        """Returns the number of rows to add as padding; 0 if no layer is packed."""
        return padded_rows(rows) - rows if self._packed else 0

    def close(self) -> None:
        """Restores the original layers."""
        for packed in self._packed:
            del packed.layer.forward
            if packed.forward is not None:
                packed.layer.forward = packed.forward  # type: ignore[method-assign]
            if packed.unshared:
                packed.layer.weight.data = packed.weight.to_dense()
        self._packed.clear()

    def _pack(self, layer: Any, *, unshared: bool) -> None:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.data, _ROWS)
        bias = None if layer.bias is None else layer.bias.data
        before = layer.__dict__.get("forward")
        self._packed.append(_PackedLayer(layer, weight, unshared, before))
        layer.forward = partial(self._linear, weight=weight, bias=bias)
        if unshared:
            layer.weight.data = torch.full((), torch.nan).expand(layer.weight.shape)


def _padded_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x_N_I = x.reshape(-1, x.shape[-1])
    rows = len(x_N_I)
    if more := padded_rows(rows) - rows:
        x_N_I = functional.pad(x_N_I, (0, 0, 0, more))
    return onednn_linear(x_N_I, weight, bias)[:rows].view(*x.shape[:-1], -1)


def _can_be_packed(layer: nn.Module) -> bool:
    # A subclass may compute something else.
    if type(layer) is not nn.Linear or not torch._C._has_mkldnn:
        return False
    weight = layer.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32
