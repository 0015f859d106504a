"""Products of float32 matrices on processors that torch's usual library does not know well.

torch multiplies by MKL, which on AMD's processors reaches less than half of what oneDNN does, and
oneDNN comes with torch, too (measured on EPYC: 105 and 240 GFLOP/s a core). Elsewhere, and where a
product is too small to be worth the call, all is left to torch.

Shapes: N rows, I inputs, O outputs.
"""

import functools
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Multiplications below which oneDNN's call costs more than it saves.
_MIN_MULTIPLICATIONS = 2_500_000
# oneDNN keeps a program with memory of its own for each shape that it met, by default 1,024 of
# them: gigabytes, where texts are of all lengths. So many are those of one step.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is the better library on this machine."""
    about = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and about.exists()
        and "AuthenticAMD" in about.read_text(encoding="utf-8", errors="replace")
    )


def linear(x_N_I: Tensor, weight_O_I: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x W^T + b`, in any layout in memory; nothing is recorded for gradients."""
    by = onednn_linear if _fits(x_N_I, weight_O_I) else functional.linear
    return by(x_N_I, weight_O_I, bias_O)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b` of float32 on a CPU; the weight may lie in oneDNN's own blocks."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def use_onednn(model: nn.Module) -> None:
    """The plain linear layers of a model multiply by `linear` from now on, where that is quicker.

    Weights, hooks and files stay as they are; a layer that becomes another kind loses it.
    """
    if not onednn_is_faster():
        return
    for layer in model.modules():
        if type(layer) is nn.Linear and "forward" not in layer.__dict__:
            layer.forward = _Forward(layer)  # type: ignore[method-assign]


class _Forward:
    """A layer's forward pass."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def __call__(self, input: Tensor) -> Tensor:
        layer = self.layer
        if not _fits(input, layer.weight):
            return functional.linear(input, layer.weight, layer.bias)
        if not torch.is_grad_enabled():
            return linear(input, layer.weight, layer.bias)
        found: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
            input, layer.weight, layer.bias
        )
        return found


class _Linear(torch.autograd.Function):
    """`linear` with gradients for all that takes part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_O_I: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_O_I)
        return linear(x, weight_O_I, bias_O)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_O_I = ctx.saved_tensors
        dy_N_O = dy.reshape(-1, dy.shape[-1])
        dx = dweight_O_I = None
        if ctx.needs_input_grad[0]:
            dx = linear(dy_N_O, weight_O_I.T).view_as(x)
        if ctx.needs_input_grad[1]:
            dweight_O_I = linear(dy_N_O.T, x.reshape(-1, x.shape[-1]).T)
        return dx, dweight_O_I, dy_N_O.sum(0) if ctx.needs_input_grad[2] else None


def _fits(x: Tensor, weight_O_I: Tensor) -> bool:
    return (
        x.dtype == weight_O_I.dtype == torch.float32
        and x.device.type == weight_O_I.device.type == "cpu"
        and x.numel() * weight_O_I.shape[0] >= _MIN_MULTIPLICATIONS
        and onednn_is_faster()
        and not torch.is_autocast_enabled("cpu")
    )
