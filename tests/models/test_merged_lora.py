"""Merged LoRA gives PEFT's results from one product, and steps aside wherever that would not."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn

from burnish.models import merged_lora as merged
from burnish.models.merged_lora import merged_lora
from tests.models.test_fused_lora import adapted


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Gets the weights of every product that the merged layers compute."""
    seen: list[torch.Tensor] = []

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
        seen.append(weight)
        return nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(merged, "linear", counted)
    return seen


@torch.no_grad()
def result_of(model: Any) -> torch.Tensor:
    torch.manual_seed(1)
    result: torch.Tensor = model(torch.randn(3, 24))
    return result


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_dropout": 0.5}])
def test_merged_layers_give_the_results_of_peft(
    products: list[torch.Tensor], options: dict[str, Any]
) -> None:
    model = adapted(**options).eval()
    expected, before = result_of(model), {k: v.clone() for k, v in model.state_dict().items()}
    with merged_lora(model):
        torch.testing.assert_close(result_of(model), expected, atol=1e-5, rtol=1e-5)
    assert len(products) == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(result_of(model), expected)
    assert len(products) == 2


def test_several_active_adapters_are_merged_together(products: list[torch.Tensor]) -> None:
    model = adapted().eval()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["two"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    expected = result_of(model)
    with merged_lora(model):
        torch.testing.assert_close(result_of(model), expected, atol=1e-5, rtol=1e-5)
        assert len(products) == 2
        with model.disable_adapter():
            base = result_of(model)
        assert len(products) == 2
    with model.disable_adapter():
        assert torch.equal(result_of(model), base)
    assert not torch.allclose(base, expected)


def test_a_disabled_adapter_is_not_merged(products: list[torch.Tensor]) -> None:
    model = adapted().eval()
    with model.disable_adapter():
        expected = result_of(model)
        with merged_lora(model):
            torch.testing.assert_close(result_of(model), expected, atol=1e-6, rtol=1e-6)
    assert len(products) == 2


def test_training_takes_the_path_of_peft(products: list[torch.Tensor]) -> None:
    model = adapted()
    with merged_lora(model):
        model(torch.randn(3, 24)).sum().backward()
        result_of(model)  # without gradients, but in training mode, in which dropout counts
    assert products == []


@pytest.mark.parametrize("kind", ["dora", "bfloat16", "hook", "bias"])
def test_other_layers_stay_as_they_are(kind: str, products: list[torch.Tensor]) -> None:
    model = adapted(
        use_dora=kind == "dora", lora_bias=kind == "bias", target_modules=["one"]
    ).eval()
    if kind == "bfloat16":
        model.base_model.model.one.base_layer.to(torch.bfloat16)
    if kind == "hook":
        model.base_model.model.one.base_layer.register_forward_hook(lambda *_: None)
    expected = result_of(model) if kind != "bfloat16" else None
    with merged_lora(model):
        if expected is not None:
            assert torch.equal(result_of(model), expected)
        assert "forward" not in model.base_model.model.one.__dict__
    assert products == []


def test_without_room_for_the_merged_weights_nothing_is_merged(
    products: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = namedtuple("memory", "available")
    model = adapted().eval()
    size = 4 * (24 * 40 + 40 * 12)
    monkeypatch.setattr(merged.psutil, "virtual_memory", lambda: memory(2 * size - 1))
    with merged_lora(model):
        result_of(model)
    assert products == []
    monkeypatch.setattr(merged.psutil, "virtual_memory", lambda: memory(2 * size))
    with merged_lora(model):
        result_of(model)
    assert len(products) == 2
