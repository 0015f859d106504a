"""The training methods, which determine the trained weights: their properties and settings."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from burnish.recipe.section import Fraction, Section


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(16, gt=0, description="rank of the adapter")
    alpha: float = Field(32, gt=0, description="the adapter is scaled by alpha / rank")
    dropout: Fraction = Field(0.0, description="dropout on the adapter's inputs during training")
    target_modules: Literal["all-linear", "attention", "mlp"] = Field(
        "all-linear", description="linear layers that get an adapter"
    )
    loraplus_ratio: float = Field(
        1.0,
        gt=0,
        description="learning rate of matrix B divided by that of matrix A, arXiv 2402.12354",
    )


class LastN(Section):
    """Tuning of the last layers only."""

    layers: int = Field(4, gt=0, description="number of layers to train, counted from the last one")


class Prefix(Section):
    """Learned keys and values before every sequence (Li and Liang 2021, arXiv 2101.00190)."""

    num_virtual_tokens: int = Field(
        16, gt=0, description="length of the learned prefix, in virtual tokens"
    )


class Bottleneck(Section):
    """Small networks after attention and MLP (Houlsby et al. 2019, arXiv 1902.00751)."""

    size: int = Field(64, gt=0, description="width of the bottleneck")
    after: Literal["both", "mlp"] = Field(
        "both",
        description="adapters after attention and MLP, or after the MLP only, arXiv 2005.00247",
    )


@dataclass(frozen=True, slots=True)
class Method:
    """The properties of a method.

    Args:
        title: its name in model cards, as the start of a sentence.
        trains: the trained weights: all, the last layers, or an adapter.
        section: the recipe's section with its settings; None if it has none.
        family: methods of one family can continue training each other's adapters.
        rate: learning rate as a multiple of that for full fine-tuning.
        encoder_share: share of this rate for an encoder.
        four_bit: whether the base model is loaded in 4 bits.
        carries_head: whether a newly initialised head can be trained along with it.
        changes_weights: whether its adapter is a change of the weights, which can be merged into
            them, and on which a new adapter can be stacked.
        peft_reads: whether PEFT can load its adapter.
    """

    title: str
    trains: Literal["all weights", "last layers", "adapter"]
    section: str | None
    family: str
    rate: float
    encoder_share: float = 1 / 2
    four_bit: bool = False
    carries_head: bool = False
    changes_weights: bool = False
    peft_reads: bool = True

    @property
    def is_adapter(self) -> bool:
        """Whether a run saves an adapter instead of a complete model."""
        return self.trains == "adapter"

    @property
    def merges_exactly(self) -> bool:
        """Whether merging does not change the outputs; 4-bit weights would be rounded."""
        return self.is_adapter and self.changes_weights and not self.four_bit

    @property
    def is_lora(self) -> bool:
        """Whether the adapter is a LoRA adapter, on unquantized or 4-bit weights."""
        return self.family == "lora"


# The rates are multiples of the rate for full fine-tuning. They come from the rate in a source at
# its model's hidden size; `training.schedule` adapts them to other sizes:
#   IA3: 3e-3 for T0-3B, hidden size 2048 (Liu et al. 2022, arXiv 2205.05638);
#   bottleneck: 3e-4 for LLaMA-7B, hidden size 4096 (Hu et al. 2023, arXiv 2304.01933), where
#     LoRA's rate is the same, and 2.9e-4 by the rule;
#   prefix: 1e-2 for T5-large, hidden size 1024 (PEFT's guide to prefix tuning); trained directly,
#     so far above the rates of Li and Liang 2021, who train it through a network.
# Encoders get half, since the learning rate test may double it. Measured with LoRA on
# all-minilm-l6-v2 and ten times the rate for the head: banking77, 20 rows per label and 3 epochs,
# validation accuracy 71.4% at 6e-4, 83.4% at 1.2e-3, 87.0% at 2.4e-3; WNUT-17, validation loss
# after one of two epochs 0.225 at 6e-4, 0.211 at 1.8e-3, where with the adapter's rate for the head
# every word got the same tag. Full fine-tuning of encoders gets a sixth, 1.8e-5 at BERT's size,
# which was tuned at 2e-5 to 5e-5 (Devlin et al. 2019, arXiv 1810.04805, A.3).
METHODS: dict[str, Method] = {
    "full": Method(
        title="full fine-tuning",
        trains="all weights",
        section=None,
        family="full",
        rate=1.0,
        encoder_share=1 / 6,
        carries_head=True,
    ),
    "last-n": Method(
        title="fine-tuning of the last layers",
        trains="last layers",
        section="last_n",
        family="last-n",
        rate=1.0,
        encoder_share=1 / 6,
        carries_head=True,
    ),
    "lora": Method(
        title="A LoRA adapter",
        trains="adapter",
        section="lora",
        family="lora",
        rate=10.0,
        carries_head=True,
        changes_weights=True,
    ),
    "qlora": Method(
        title="A LoRA adapter trained on 4-bit weights",
        trains="adapter",
        section="lora",
        family="lora",
        rate=10.0,
        four_bit=True,
        carries_head=True,
        changes_weights=True,
    ),
    "ia3": Method(
        title="An IA3 adapter",
        trains="adapter",
        section=None,
        family="ia3",
        rate=60.0,
        carries_head=True,
        changes_weights=True,
    ),
    "prefix": Method(
        title="A learned prefix",
        trains="adapter",
        section="prefix",
        family="prefix",
        rate=120.0,
    ),
    "bottleneck": Method(
        title="A bottleneck adapter",
        trains="adapter",
        section="bottleneck",
        family="bottleneck",
        rate=10.0,
        peft_reads=False,
    ),
}
