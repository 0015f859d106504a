"""Weights in blocks: the same products, and the model as it was when they are closed."""

import pytest
import torch
from torch import nn

from burnish.inference.packed_linear import PackedLinears, padded_rows


class Tied(nn.Module):
    """A layer of its own, and a head that is the embedding too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24)
        self.layer = nn.Linear(24, 24)
        self.head = nn.Linear(24, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.layer(self.embedding(tokens)))
        return found


@pytest.mark.parametrize("rows", [1, 7, 32, 100])
def test_products_are_the_same_and_weights_come_back(rows: int) -> None:
    torch.manual_seed(0)
    model, tokens = Tied(), torch.arange(rows) % 50
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        plain = model(tokens)
        packed = PackedLinears(model)
        assert "forward" in vars(model.layer)  # it is another product
        torch.testing.assert_close(model(tokens), plain, rtol=1e-5, atol=1e-5)
        assert model.layer.weight.isnan().all()
        assert model.layer.weight.untyped_storage().nbytes() == 4
        packed.close()
        assert "forward" not in vars(model.layer)
        for name, value in model.state_dict().items():
            assert value.equal(before[name])
        assert model(tokens).equal(plain)


def test_other_layers_are_left_alone() -> None:
    class Own(nn.Linear):
        pass

    half, own = nn.Linear(4, 4).bfloat16(), Own(4, 4)
    PackedLinears(nn.Sequential(half, own))
    assert "forward" not in vars(half)
    assert "forward" not in vars(own)


def test_few_numbers_of_rows_are_computed() -> None:
    computed = [padded_rows(rows) for rows in range(1, 289)]
    assert len(set(computed)) < 32
    assert all(rows <= more <= 1.34 * rows for rows, more in enumerate(computed, 1))
    assert PackedLinears(nn.Sequential()).padding(9) == 0
