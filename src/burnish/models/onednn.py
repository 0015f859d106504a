"""Multiplies float32 matrices with oneDNN on AMD processors, where it is faster than MKL.

torch uses MKL, which reaches less than half the speed of oneDNN on AMD processors (measured on
EPYC: 105 and 240 GFLOP/s per core). oneDNN comes with torch, too. On other processors, and for
products that are too small to be worth the call, torch's own path is used.

Shapes: N rows, I inputs, O outputs.
"""

import functools
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# With fewer multiplications, the call of oneDNN costs more than it saves.
_MIN_MULTIPLICATIONS = 2_500_000
# oneDNN caches a program with its own memory for each shape, by default 1,024 of them. With texts
# of many lengths that takes gigabytes; 64 are enough for one step.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN is faster than MKL on this machine."""
    about = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and about.exists()
        and "AuthenticAMD" in about.read_text(encoding="utf-8", errors="replace")
    )


def linear(x_N_I: Tensor, weight_O_I: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x W^T + b` without gradients, for any memory layout."""
    by = onednn_linear if _fits(x_N_I, weight_O_I) else functional.linear
    return by(x_N_I, weight_O_I, bias_O)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x W^T + b` in float32 on a CPU; the weight may be in oneDNN's blocked layout."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def use_onednn(model: nn.Module) -> None:
    """Lets the plain linear layers of a model multiply by `linear`, if oneDNN is faster here.

    Weights, hooks and files are unchanged; a layer that is replaced later loses it.
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
        result: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
            input, layer.weight, layer.bias
        )
        return result


class _Linear(torch.autograd.Function):
    """`linear` with gradients for the input, the weight and the bias."""

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
