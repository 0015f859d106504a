"""What a recipe says of its model beside its name: the section `model_settings`."""

from pydantic import Field, StrictInt, StrictStr, field_validator

from burnish.recipe.section import Section


class ModelSettings(Section):
    """What the model's own files leave out."""

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
