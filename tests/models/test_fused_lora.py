"""Fused LoRA = PEFT's own: results, gradients, and everything that must not be fused."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.utils.checkpoint import checkpoint

from burnish.models import fused_lora as fused
from burnish.models.fused_lora import fused_lora


class Layers(nn.Module):
    """Two linear layers, the first with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(24, 40, bias=True)
        self.two = nn.Linear(40, 12, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.tanh(self.one(x)))  # type: ignore[no-any-return]


def adapted(alpha: float = 8.0, **options: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": alpha, "target_modules": ["one", "two"], **options}
    )
    model = get_peft_model(Layers(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide half of the gradients
            nn.init.normal_(parameter, std=0.3)
    return model


def gradients(model: Any, x: torch.Tensor, run: Any = None) -> dict[str, torch.Tensor]:
    model.zero_grad()
    x.grad = None
    result = (run or model)(x)
    (result * torch.linspace(-1, 2, result.numel()).view_as(result)).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    found["result"] = result.detach()
    if x.grad is not None:
        found["x"] = x.grad.clone()
    return found


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every fused product."""
    seen: list[int] = []
    original = fused._LoraProduct.apply

    def count(*arguments: Any) -> Any:
        seen.append(1)
        return original(*arguments)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(fused._LoraProduct, "apply", count)
    return seen


@pytest.mark.parametrize("alpha", [1.0, 8.0, 32.0])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (1, 24)])
@pytest.mark.parametrize("wanted", [True, False])
def test_results_and_gradients_equal_peft(
    alpha: float, shape: tuple[int, ...], wanted: bool, products: list[int]
) -> None:
    model = adapted(alpha)
    x = torch.randn(shape, requires_grad=wanted)
    expected = gradients(model, x)
    with fused_lora(model):
        found = gradients(model, x)
    assert len(products) == 2
    assert ("x" in found) is wanted
    assert_equal(found, expected)


def test_gradients_are_those_of_finite_differences() -> None:
    model = adapted().double()
    x = torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    layer = model.base_model.model.one
    low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def product(*tensors: torch.Tensor) -> Any:
        return fused._LoraProduct.apply(tensors[0], layer.base_layer, *tensors[1:], 2.0)  # type: ignore[no-untyped-call]

    assert torch.autograd.gradcheck(product, (x, low, high))


def test_only_the_adapter_gets_gradients_and_the_layer_is_left_as_it_was() -> None:
    model = adapted()
    names = set(model.state_dict())
    with fused_lora(model):
        found = gradients(model, torch.randn(6, 24))
        assert set(model.state_dict()) == names
    assert {name for name in found if "lora_" not in name} == {"result"}
    assert all("forward" not in vars(m) for m in model.modules())


def test_gradient_checkpointing(products: list[int]) -> None:
    model = adapted()
    x = torch.randn(6, 24, requires_grad=True)
    expected = gradients(model, x)
    with fused_lora(model):
        found = gradients(model, x, lambda x: checkpoint(model, x, use_reentrant=False))
    assert len(products) == 4  # each layer a second time in the backward pass
    assert_equal(found, expected)


def test_same_bits_every_time() -> None:
    model = adapted()
    x = torch.randn(9, 24)
    with fused_lora(model):
        first, second = gradients(model, x), gradients(model, x)
    assert all(torch.equal(first[name], second[name]) for name in first)


def layers_of(model: Any) -> list[Linear]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def second_adapter(model: Any) -> None:
    model.add_adapter("other", LoraConfig(r=4, target_modules=["one", "two"]))
    model.base_model.set_adapter(["default", "other"])


def hook(model: Any) -> None:
    for layer in layers_of(model):
        layer.base_layer.register_forward_hook(lambda *_: None)


def doubled(model: Any) -> None:
    for layer in layers_of(model):
        layer.lora_A.double(), layer.lora_B.double()


def thaw(model: Any) -> None:
    for layer in layers_of(model):
        layer.base_layer.weight.requires_grad_(True)


UNFIT = {
    "dora": ({"use_dora": True}, None),
    "dropout": ({"lora_dropout": 0.1}, lambda model: model.eval()),
    "bias of B": ({"lora_bias": True, "target_modules": ["one"]}, None),
    "two adapters": ({}, second_adapter),
    "merged": ({}, lambda model: model.merge_adapter()),
    "other dtype": ({}, doubled),
    "hooked": ({}, hook),
    "thawed": ({}, thaw),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_takes_pefts_path(case: str, products: list[int]) -> None:
    options, change = UNFIT[case]
    model = adapted(**options)
    if change:
        change(model)
    x = torch.randn(5, 24, requires_grad=True)
    expected = gradients(model, x)
    with fused_lora(model):
        found = gradients(model, x)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not products


def test_switched_off_or_without_gradients_it_is_pefts_path(products: list[int]) -> None:
    model = adapted()
    x = torch.randn(5, 24)
    with torch.no_grad():
        on = model(x)
        with model.disable_adapter():
            off = model(x)
    with fused_lora(model):
        with torch.no_grad():
            assert torch.equal(model(x), on)
        with model.disable_adapter():
            assert torch.equal(model(x).detach(), off)
    assert not products


def test_a_base_in_bfloat16_has_an_adapter_in_float32_that_is_rounded_for_the_products(
    products: list[int],
) -> None:
    """As near to the float32 layers as PEFT's own way, and gradients in the adapter's dtype."""
    exact = adapted()
    x = torch.randn(9, 24)
    wanted = gradients(exact, x)
    model = adapted()
    for module in model.modules():
        if isinstance(module, Linear):
            module.base_layer.to(torch.bfloat16)
    theirs = gradients(model, x.bfloat16())
    with fused_lora(model):
        ours = gradients(model, x.bfloat16())
        with torch.no_grad():  # a step compares both, so both are computed alike
            torch.testing.assert_close(model(x.bfloat16()), ours["result"], rtol=0, atol=0)
    assert len(products) == 4
    for name, value in wanted.items():
        assert ours[name].dtype == theirs[name].dtype
        away = [
            float((found[name].float() - value).norm() / value.norm()) for found in (ours, theirs)
        ]
        assert away[0] < max(2 * away[1], 0.01), name
