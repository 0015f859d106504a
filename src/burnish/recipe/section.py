"""What every section of a recipe is made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
ClassWeights = Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]]


class Section(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
