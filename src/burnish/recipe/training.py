"""The recipe's section `training`."""

from typing import Annotated, Literal

from pydantic import Field

from burnish.recipe.section import Fraction, Section


class Training(Section):
    """Optimizer, schedule, checkpoints and processes."""

    epochs: float = Field(3, gt=0, description="passes over the training rows")
    batch_size: int = Field(8, gt=0, description="rows per forward pass")
    gradient_accumulation: int = Field(1, gt=0, description="forward passes per optimizer step")
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto", "rule"] = Field(
        "auto",
        description="peak learning rate; rule computes it, auto tries a few rates around that one",
    )
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="how the learning rate falls after the warmup"
    )
    warmup_ratio: Fraction = Field(
        0.05, description="share of the steps during which the learning rate rises"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    max_grad_norm: float = Field(
        1.0, gt=0, description="gradients with a larger norm are scaled down to it"
    )
    max_length: int | None = Field(
        None, gt=1, description="maximum tokens per row; null is the model's context length"
    )
    evaluations: int = Field(4, ge=0, description="number of validation passes during training")
    early_stopping_patience: int = Field(
        3, gt=0, description="validation passes without improvement before training stops"
    )
    checkpoints: int = Field(4, ge=1, description="number of checkpoints saved during training")
    workers: int = Field(1, gt=0, description="number of data-parallel processes")
    fsdp: bool = Field(False, description="shard the weights over the processes (FSDP2)")
    preflight: bool = Field(True, description="run the preflight checks before training")
