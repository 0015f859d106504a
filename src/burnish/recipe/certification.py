"""The recipe's sections on forgetting: budgets, replay, the scale search and healing."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from burnish.recipe.section import Section

# Number of replayed conversations for `auto`.
REPLAYED = 64
Points = Annotated[float, Field(gt=0, le=100)]


class Budget(Section):
    """How much the model may forget. A null budget is measured and shown, but not certified.

    The defaults can be certified with about 2,000 items. A section, bias and refusal have 100 to
    200 items each, which can only rule out a fall of about 10 points, so by default they have none.
    """

    general: float = Field(
        2.0, gt=0, le=100, description="points that the mean of the general suite may fall"
    )
    suites: dict[str, Points] = Field(
        default_factory=dict,
        description="points per suite, by name; other suites have budget.general",
    )
    section: float | None = Field(
        None,
        gt=0,
        le=100,
        description="points that any section may fall; sections are small: use 10 or more",
    )
    text_loss: float | None = Field(
        10.0, gt=0, description="percent that the perplexity on prose may rise"
    )
    bias: float | None = Field(
        None,
        gt=0,
        le=100,
        description="points that social bias may rise; the set is small: use 10 or more",
    )
    refusal: float | None = Field(
        None,
        gt=0,
        le=100,
        description="points that refusing harm may fall; the set is small: use 10 or more",
    )
    earlier: float | None = Field(
        10.0, gt=0, le=100, description="points that the task of an earlier stage may fall"
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="confidence level of the certificate, over all candidates together",
    )


class Replay(Section):
    """General conversations replayed during training so that the model forgets less."""

    rows: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        0,
        description="replayed conversations; 0 is none, auto is 64 where the objective allows it",
    )
    data: Path | None = Field(
        None, description="file of general rows to replay; null lets the base model generate them"
    )
    mode: Literal["anchor", "text"] = Field(
        "anchor",
        description="anchor adds a KL penalty to the base model, text trains on the replies",
    )
    anchors_per_step: int = Field(2, ge=1, description="anchor conversations per step")
    target_kl: float | None = Field(
        None,
        gt=0,
        description="KL(base, tuned) that the anchor tolerates, in nats per token; null is 0.015 "
        "per point of budget.general",
    )

    @property
    def count(self) -> int:
        """Number of conversations to replay."""
        return REPLAYED if self.rows == "auto" else self.rows


class ScaleSearch(Section):
    """The search for the largest adapter scale within the budget."""

    bisection_steps: int = Field(
        2, ge=0, description="bisection steps for the adapter scale; 0 disables the search"
    )
    max_scale: float = Field(1.25, ge=1, le=2, description="largest scale to try")
    layer_slope: float = Field(
        0.0, ge=0, le=1, description="how much smaller the scale of the first layer is (LiNeS)"
    )


class Heal(Section):
    """Further attempts when the tuned model forgot too much."""

    minutes: float = Field(
        0.0, ge=0, description="total minutes for repair attempts; 0 disables them"
    )
