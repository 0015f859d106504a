"""The recipe's section `model_settings`: settings of the model besides its name."""

from pydantic import Field, StrictInt, StrictStr, field_validator

from burnish.recipe.section import Section


class ModelSettings(Section):
    """Settings that the model's own files lack."""

    stop_tokens: tuple[StrictInt | StrictStr, ...] = Field(
        (), description="further tokens (texts or ids) that end an answer"
    )

    thinking: bool | None = Field(
        None,
        description="whether prompts ask the model to think before it answers "
        "(default: as most training rows do)",
    )

    @field_validator("stop_tokens", mode="before")
    @classmethod
    def _one_or_several(cls, stops: object) -> object:
        return (stops,) if isinstance(stops, str | int) and not isinstance(stops, bool) else stops
