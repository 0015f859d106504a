"""oneDNN's products are torch's own, with all gradients; what does not fit is left to torch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from burnish.models import onednn
from burnish.models.load import load_model
from burnish.models.onednn import linear, use_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any processor, and for products of any size."""
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(onednn, "_MIN_MULTIPLICATIONS", 0)


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bias", [None, torch.randn(24)])
def test_any_layout(bias: torch.Tensor | None) -> None:
    x, weight = torch.randn(3, 5, 40), torch.randn(24, 40)
    near(linear(x, weight, bias), functional.linear(x, weight, bias))
    turned = x.transpose(0, 1)
    near(linear(turned, weight, bias), functional.linear(turned, weight, bias))
    across = torch.randn(40, 24).T
    near(linear(x, across, bias), functional.linear(x, across, bias))
    near(linear(x[0].T.contiguous().T, weight), functional.linear(x[0], weight))
    assert linear(torch.zeros(0, 40), weight).shape == (0, 24)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learns", ["all", "x", "weight"])
def test_gradients(bias: bool, learns: str) -> None:
    plain = nn.Linear(40, 24, bias=bias)
    plain.requires_grad_(learns != "x")
    quick = copy.deepcopy(plain)
    use_onednn(quick)
    pull = torch.randn(3, 5, 24).transpose(1, 2).contiguous().transpose(1, 2)
    found: list[Any] = []
    for layer in (plain, quick):
        x = torch.linspace(-2, 2, 600).view(3, 5, 40).requires_grad_(learns != "weight")
        layer(x).backward(pull)
        found.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    for expected, own in zip(*found, strict=True):
        assert (expected is None) == (own is None)
        if expected is not None:
            near(own, expected)


def test_what_does_not_fit_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(4, 40, dtype=torch.float64), torch.randn(24, 40, dtype=torch.float64)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))
    monkeypatch.setattr(onednn, "_MIN_MULTIPLICATIONS", 4 * 40 * 24 + 1)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *_: pytest.fail("too small"))
    x, weight = torch.randn(4, 40), torch.randn(24, 40)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))


def test_a_copy_has_its_own_weights() -> None:
    layer = nn.Linear(40, 24)
    use_onednn(layer)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
    x = torch.randn(4, 40)
    near(layer(x), functional.linear(x, layer.weight, layer.bias))
    assert torch.equal(other(x), other.bias.expand(4, 24))


def test_a_loaded_model_says_the_same(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 3, 2]])
    quick: Any = load_model(str(tiny_folder), "cpu").module
    layers = [layer for layer in quick.modules() if type(layer) is nn.Linear]
    assert layers
    assert all("forward" in layer.__dict__ for layer in layers)
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: False)
    plain: Any = load_model(str(tiny_folder), "cpu").module
    assert not any("forward" in layer.__dict__ for layer in plain.modules())
    near(quick(input_ids=tokens).logits, plain(input_ids=tokens).logits)
    assert quick.state_dict().keys() == plain.state_dict().keys()
