"""How the weights move: the recipe's section `training`."""

from typing import Annotated, Literal

from pydantic import Field

from burnish.recipe.section import Fraction, Section


class Training(Section):
    """How the weights move."""

    epochs: float = Field(3, gt=0, description="passes over the training rows")
    batch_size: int = Field(8, gt=0, description="rows in one forward pass")
    gradient_accumulation: int = Field(1, gt=0, description="forward passes an optimizer step")
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto", "rule"] = Field(
        "auto", description="auto tries a few rates around the rule's, rule takes that one"
    )
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="how the learning rate falls after the warmup"
    )
    warmup_ratio: Fraction = Field(
        0.05, description="share of the steps in which the learning rate rises"
    )
    weight_decay: float = Field(0.0, ge=0, description="decay of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    max_length: int | None = Field(None, gt=1, description="tokens; the model's context if null")
    evaluations: int = Field(4, ge=0, description="validation passes in the whole run")
    early_stopping_patience: int = Field(
        3, gt=0, description="passes without progress before stopping early"
    )
    checkpoints: int = Field(4, ge=1, description="checkpoints in the whole run")
    workers: int = Field(1, gt=0, description="processes that share every batch")
    fsdp: bool = Field(False, description="each worker keeps a part of every layer")
    preflight: bool = Field(True, description="check on a few rows that the run keeps its promises")
