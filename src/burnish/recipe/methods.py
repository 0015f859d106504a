"""Settings of the methods: which weights learn."""

from typing import Literal

from pydantic import Field

from burnish.recipe.section import Fraction, Section


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(16, gt=0, description="rank of the adapter's matrices")
    alpha: float = Field(32, gt=0, description="scale of the adapter, times 1 / rank")
    dropout: Fraction = Field(0.0, description="share of the adapter's inputs left out in training")
    target_modules: Literal["all-linear", "attention", "mlp"] = Field(
        "all-linear", description="linear maps that get an adapter"
    )
    loraplus_ratio: float = Field(
        1.0, gt=0, description="learning rate of B over that of A, arXiv 2402.12354"
    )


class LastN(Section):
    """Tuning of the last layers only."""

    layers: int = Field(4, gt=0, description="decoder layers, counted from the end")


class Prefix(Section):
    """Learned keys and values before every sequence (Li and Liang 2021, arXiv 2101.00190)."""

    num_virtual_tokens: int = Field(16, gt=0, description="places that the prefix takes")


class Bottleneck(Section):
    """Small networks behind the layers' parts (Houlsby et al. 2019, arXiv 1902.00751)."""

    size: int = Field(64, gt=0, description="width of the bottleneck")
    after: Literal["both", "mlp"] = Field(
        "both", description="behind attention and MLP, or the MLP alone, arXiv 2005.00247"
    )
