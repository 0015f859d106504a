"""Where rows come from: the recipe's own data set, and others that are learnt with it."""

from pathlib import Path

from pydantic import Field

from burnish.recipe.section import Fraction, Section


class Split(Section):
    """Shares of the rows held out where the recipe names no files for them."""

    validation: Fraction = Field(0.1, description="share held out to choose checkpoints")
    test: Fraction = Field(0.25, description="share held out to measure the gain")


class Data(Section):
    """Where rows come from and how they are read."""

    train: Path = Field(description="JSON Lines, CSV or Parquet file to learn from")
    validation: Path | None = Field(None, description="file instead of a split")
    test: Path | None = Field(None, description="file instead of a split")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="our field (text, label, prompt, tokens, tags, group and so on) to the column",
    )
    system: str | None = Field(None, description="system message put before every row")
    tools: Path | None = Field(
        None, description="JSON file of functions offered in every row that names none"
    )
    split: Split = Field(default_factory=Split)
    group_by: str | None = Field(None, description="column whose rows never straddle a split")
    drop_bad: bool = Field(False, description="go on without bad rows")
    limit: int | None = Field(
        None, gt=0, description="use at most so many rows of each file, drawn by the seed"
    )


class Task(Data):
    """Another data set that is learnt together with `data`, by the same objective."""

    weight: float = Field(1.0, gt=0, description="times the share that its size would give it")


class Mixing(Section):
    """How much of an epoch each data set gives."""

    temperature: float = Field(1.0, gt=0, description="1 is by size, large is alike for all")
