"""Faster LoRA layers for training: the same results as PEFT with fewer passes over memory.

PEFT computes W x, B (A x), the second times the scale, and their sum: three results of full size
that are written and read again, forwards and backwards. Here the matrix product adds the low-rank
product to the first result. W + scale B A as one matrix was measured too: forming it costs more
than it saves below about 1,000 tokens, and rounds in bfloat16.

Only a plain LoRA on a plain linear layer is replaced, while gradients are recorded; in bfloat16
also without, so that what a step compares is rounded alike. Evaluation after training, a disabled
adapter, DoRA, dropout, quantised layers and several adapters use PEFT's path. Files and
the PEFT model itself are unchanged.

On a base in bfloat16 the adapter stays in float32 for the optimizer, and is rounded for the
products, as automatic mixed precision does: a GPU computes them in bfloat16 many times faster, and
the layer's input is not kept a second time in float32.

Shapes: N tokens, I inputs, O outputs, R rank.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from burnish.models.onednn import linear


class _LoraProduct(torch.autograd.Function):
    """x W' + bias + scale (x A') B'; the weight and the bias get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x_N_I: Tensor, base: nn.Linear, a_R_I: Tensor, b_O_R: Tensor, scale: float
    ) -> Tensor:
        a_R_I, b_O_R = a_R_I.to(x_N_I.dtype), b_O_R.to(x_N_I.dtype)
        low_N_R = linear(x_N_I, a_R_I)
        ctx.save_for_backward(x_N_I, low_N_R, base.weight, a_R_I, b_O_R)
        ctx.scale = scale
        result_N_O = linear(x_N_I, base.weight, base.bias)
        return result_N_O.addmm_(low_N_R, b_O_R.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy_N_O,) = gradients
        x_N_I, low_N_R, weight_O_I, a_R_I, b_O_R = ctx.saved_tensors
        dlow_N_R = linear(dy_N_O, b_O_R.T).mul_(ctx.scale)
        dx_N_I = None
        if ctx.needs_input_grad[0]:
            dx_N_I = linear(dy_N_O, weight_O_I.T).addmm_(dlow_N_R, a_R_I)
        da_R_I = linear(dlow_N_R.T, x_N_I.T) if ctx.needs_input_grad[2] else None
        db_O_R = (dy_N_O.T @ low_N_R).mul_(ctx.scale) if ctx.needs_input_grad[3] else None
        return dx_N_I, None, da_R_I, db_O_R, None


@contextlib.contextmanager
def fused_lora(model: nn.Module) -> Iterator[None]:
    """Fuses the LoRA layers of `model` for the duration of the context, where possible."""
    layers = [module for module in model.modules() if type(module) is Linear]
    for layer in layers:
        layer.forward = _Forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _Forward:
    """A layer's forward pass; each call checks if it can be fused, since adapters may change."""

    def __init__(self, layer: Linear) -> None:
        self.layer = layer

    def __call__(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        layer = self.layer
        if arguments or named or not _fits(layer, x):
            result: Tensor = Linear.forward(layer, x, *arguments, **named)
            return result
        (name,) = layer.active_adapters
        product: Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]),
            layer.base_layer,
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            layer.scaling[name],
        )
        return product.view(*x.shape[:-1], -1)


def _fits(layer: Linear, x: Tensor) -> bool:
    base, active = layer.base_layer, layer.active_adapters
    if not torch.is_grad_enabled() and x.dtype is torch.float32:
        return False
    if torch.is_autocast_enabled(x.device.type):
        return False
    if layer.disable_adapters or layer.merged or len(active) != 1 or type(base) is not nn.Linear:
        return False
    (name,) = active
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
        return False
    low, high = layer.lora_A[name], layer.lora_B[name]
    return (
        isinstance(layer.lora_dropout[name], nn.Identity)
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and not any(_watched(module) for module in (base, low, high))
        and x.dtype == base.weight.dtype
        and low.weight.dtype == high.weight.dtype
        and low.weight.dtype in (x.dtype, torch.float32)
    )


def _watched(module: nn.Module) -> bool:
    """Whether the module has hooks, which the fused pass would not call."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
