"""Activation checkpointing changes neither losses nor gradients, only what is kept."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.models.adapt import METHODS, add_lora
from burnish.models.branches import Network, Row
from burnish.models.checkpointing import checkpoint_activations
from burnish.models.fused_lora import fused_lora
from burnish.training.objectives.sft import Sft
from tests.refused import refused

ROWS = [
    Row([3, 4, 5, 6, 7 + n, 8, *range(9, 9 + n)], [0.0] * 4 + [1.0] * (2 + n)) for n in range(3)
]


def tiny() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def step(network: Network) -> tuple[float, dict[str, torch.Tensor], int]:
    """The loss, the gradients, and the bytes that were kept for them."""
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    network.wrapped.train()
    network.wrapped.zero_grad()
    with fused_lora(network.wrapped):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = Sft().loss(network, ROWS).total
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        loss.backward()
    named = network.wrapped.named_parameters()
    gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
    return float(loss.detach()), gradients, size


@pytest.mark.parametrize("adapter", [True, False])
def test_same_loss_and_gradients_with_less_kept(adapter: bool) -> None:
    model = add_lora(tiny(), rank=4, alpha=8, seed=0) if adapter else tiny()
    network = Network(model)
    network.may_share = False
    loss, gradients, size = step(network)
    checkpoint_activations(network)
    again, same, less = step(network)
    assert again == pytest.approx(loss, rel=1e-6)
    assert same.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, atol=1e-6, rtol=1e-5)
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert less - weights < 0.7 * (size - weights) or less < 0.7 * size
    assert not network.shares_beginnings


def test_a_learned_prefix_cannot_be_computed_again() -> None:
    network = Network(METHODS["prefix"](tiny(), seed=0, num_virtual_tokens=2))
    with refused("cannot_checkpoint"):
        checkpoint_activations(network)
