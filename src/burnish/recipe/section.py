"""The base class of all sections of a recipe."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from burnish.recipe.paths import DOWNLOAD, expanded, is_url

Fraction = Annotated[float, Field(ge=0, lt=1)]
ClassWeights = Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]]


class Section(BaseModel):
    """Immutable; unknown keys are errors, and so are true and false for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans for other types, reject URLs for paths, and expand `~` in paths.

        YAML reads `yes`, `no`, `on` and `off` as booleans, which Python accepts as numbers.
        """
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and not _may_be(bool, field.annotation):
            raise PydanticCustomError("truth", "input should not be true or false")
        if isinstance(value, str) and _may_be(Path, field.annotation):
            if is_url(value):
                raise PydanticCustomError("address", "input should be a path: " + DOWNLOAD)
            return expanded(value)
        return value


def _may_be(kind: type, annotation: Any) -> bool:
    return annotation is kind or any(_may_be(kind, part) for part in get_args(annotation))
