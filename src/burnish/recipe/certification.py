"""The recipe's sections on what may be forgotten, and on the search for a model that keeps it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from burnish.recipe.section import Section

# Conversations to hold to, where nobody says how many.
REPLAYED = 64
Points = Annotated[float, Field(gt=0, le=100)]


class Budget(Section):
    """What may be forgotten. Null is measured and shown, but not certified.

    The defaults are what some 2,000 items can certify. A single section, bias and refusal have 100
    to 200 items each, which rule out a fall of about 10 points and no smaller one: naming one of
    them is a decision for a suite with more.
    """

    general: float = Field(2.0, gt=0, le=100, description="points the suite mean may fall")
    suites: dict[str, Points] = Field(
        default_factory=dict, description="points of single suites by name; general for the others"
    )
    section: float | None = Field(
        None, gt=0, le=100, description="points any section may fall; few items: 10 or more"
    )
    text_loss: float | None = Field(
        10.0, gt=0, description="percent that perplexity on prose may rise"
    )
    bias: float | None = Field(
        None, gt=0, le=100, description="points social bias may rise; few items: 10 or more"
    )
    refusal: float | None = Field(
        None, gt=0, le=100, description="points refusing harm may fall; few items: 10 or more"
    )
    earlier: float | None = Field(
        10.0, gt=0, le=100, description="points that the task of an earlier stage may fall"
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="confidence of all looks at the certification items together",
    )


class Replay(Section):
    """Conversations read beside the rows so that the model forgets less."""

    rows: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        0, description="conversations; 0 is none, auto is 64 where objective and base allow it"
    )
    data: Path | None = Field(
        None, description="file of general rows to take them from; null lets the base write them"
    )
    mode: Literal["anchor", "text"] = Field(
        "anchor",
        description="anchor holds the model to what the base says there, text learns the answers",
    )
    anchors_per_step: int = Field(2, ge=1, description="conversations that a step reads as anchors")
    target_kl: float | None = Field(
        None,
        gt=0,
        description="KL(base, tuned) that an anchor tolerates, nats a token; null is 0.015 for "
        "each point of budget.general",
    )

    @property
    def count(self) -> int:
        """How many are wanted."""
        return REPLAYED if self.rows == "auto" else self.rows


class ScaleSearch(Section):
    """The search for the largest part of what was learnt that keeps the budget."""

    bisection_steps: int = Field(
        2, ge=0, description="halvings of the scale, and scales asked in full; 0 takes all of it"
    )
    max_scale: float = Field(
        1.25, ge=1, le=2, description="scale tried where there is room to spare"
    )
    layer_slope: float = Field(
        0.0, ge=0, le=1, description="how much less the first layer gets (LiNeS)"
    )


class Heal(Section):
    """Other ways to learn the same, tried where too much was forgotten."""

    minutes: float = Field(
        0.0, ge=0, description="minutes that all attempts may take together; 0 tries none"
    )
