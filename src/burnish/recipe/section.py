"""What every section of a recipe is made of."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, lt=1)]
ClassWeights = Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]]


class Section(BaseModel):
    """Frozen; an unknown key is an error, and so is yes or no where a number is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes`, `no`, `on` and `off` as truth values, and Python counts with them."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and not _may_be_bool(field.annotation):
            raise PydanticCustomError("truth", "input should be no truth value")
        return value


def _may_be_bool(annotation: Any) -> bool:
    return annotation is bool or any(map(_may_be_bool, get_args(annotation)))
