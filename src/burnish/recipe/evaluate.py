"""The recipe's section `evaluate`: scorers, general suites and answers."""

from typing import Any, Literal

from pydantic import Field, field_validator

from burnish.recipe.files import place_suite
from burnish.recipe.paths import expanded
from burnish.recipe.section import Section


class Evaluate(Section):
    """How base and tuned model are evaluated."""

    target: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="scorers, of which the first decides; null chooses by the rows",
    )
    answer: Literal["generate", "likelihood"] = Field(
        "generate", description="generate the answer, or rank the labels by likelihood"
    )
    general: tuple[str, ...] | None = Field(
        ("core",),
        min_length=1,
        description="general suites: core, levels, a .jsonl file or lm_eval:TASK; null is none",
    )
    max_new_tokens: int = Field(64, gt=0, description="maximum length of an answer, in tokens")
    limit: int | None = Field(None, gt=1, description="maximum test rows, drawn by the seed")

    @field_validator("general", mode="before")
    @classmethod
    def _one_or_several(cls, general: Any) -> Any:
        return (general,) if isinstance(general, str) else general

    @field_validator("general")
    @classmethod
    def _whole_paths(cls, general: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Make paths absolute, since a run may be healed or compared from another folder."""
        return general and tuple(
            place_suite(name, lambda file: str(expanded(file).absolute())) for name in general
        )
