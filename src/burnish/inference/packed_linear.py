"""Linear layers whose weights lie as the processor reads them fastest.

On a CPU most of a step is products of a few rows with the weights. oneDNN computes them from
weights in blocks, laid out once, in a third to a half of the time of torch's usual product.
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

# Rows that the layout is chosen for; other numbers of them are served well by it.
_ROWS = 32
# Up to so many rows, their number is rounded up to a multiple of this.
_STEPS, _WIDEST = ((8, 1), (32, 4), (64, 8), (128, 16)), 32


@dataclass(frozen=True, slots=True)
class _PackedLayer:
    """A layer, its weights in blocks, whether its own are given up meanwhile, and its old way."""

    layer: nn.Linear
    weight: Tensor
    alone: bool
    forward: Any


def padded_rows(rows: int) -> int:
    """How many rows to compute for so many, the others being padding.

    oneDNN keeps a program with memory of its own for every number of rows that a layer ever met;
    without few numbers a server would grow by hundreds of megabytes.
    """
    step = next((step for most, step in _STEPS if rows <= most), _WIDEST)
    return -(-rows // step) * step


class PackedLinears:
    """The linear layers of a model in blocks until `close`; elsewhere than on a CPU, none.

    What the blocks replace is given up, so that no more memory is needed than before: a layer's
    `weight` keeps its shape and is not a number. One that is also the embedding stays beside them.

    Args:
        model: whose layers are packed.
        pads: whether each layer pads its own rows, so that `padding` is not to be asked.
        only: the layers to pack, as far as they can be; None for all.
    """

    def __init__(
        self, model: nn.Module, *, pads: bool = False, only: Collection[nn.Module] | None = None
    ) -> None:
        self._linear = _padded_linear if pads else onednn_linear
        self._packed: list[_PackedLayer] = []
        holders = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
        for layer in model.modules():
            if _can_be_packed(layer) and (only is None or layer in only):
                self._pack(layer, alone=holders[id(layer.weight)] == 1)

    def padding(self, rows: int) -> int:
        """Rows to add to so many; none where no layer is in blocks."""
        return padded_rows(rows) - rows if self._packed else 0

    def close(self) -> None:
        """The layers are as they were."""
        for each in self._packed:
            del each.layer.forward
            if each.forward is not None:
                each.layer.forward = each.forward  # type: ignore[method-assign]
            if each.alone:
                each.layer.weight.data = each.weight.to_dense()
        self._packed.clear()

    def _pack(self, layer: Any, *, alone: bool) -> None:
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.data, _ROWS)
        bias = None if layer.bias is None else layer.bias.data
        before = layer.__dict__.get("forward")
        self._packed.append(_PackedLayer(layer, weight, alone, before))
        layer.forward = partial(self._linear, weight=weight, bias=bias)
        if alone:
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
