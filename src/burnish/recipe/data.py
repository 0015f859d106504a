"""Where rows come from: the recipe's own data set, and others that are learnt with it."""

from pathlib import Path

from pydantic import Field

from burnish.recipe.section import Fraction, Section


class Split(Section):
    """Shares of the rows held out where the recipe names no files for them."""

    validation: Fraction = Field(
        0.1, description="share of the rows held out to choose a checkpoint"
    )
    test: Fraction = Field(0.25, description="share of the rows held out to measure the gain")


class Data(Section):
    """Where rows come from and how they are read."""

    train: Path = Field(description="training file: JSON Lines, CSV or Parquet")
    validation: Path | None = Field(
        None, description="validation file; null splits the training file"
    )
    test: Path | None = Field(None, description="test file; null splits the training file")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="maps a field (text, label, prompt, tokens, tags, group, ...) to your column",
    )
    system: str | None = Field(None, description="system message for rows that have none")
    tools: Path | None = Field(
        None, description="JSON file with the functions offered in rows that list none"
    )
    split: Split = Field(default_factory=Split)
    group_by: str | None = Field(
        None, description="rows with the same value in this column stay in one split"
    )
    drop_bad: bool = Field(
        False, description="leave out rows that cannot be used, instead of stopping"
    )
    limit: int | None = Field(None, gt=0, description="maximum rows per file, drawn by the seed")


class Task(Data):
    """Another data set that is learnt together with `data`, by the same objective."""

    weight: float = Field(1.0, gt=0, description="sampling weight relative to its size")


class Mixing(Section):
    """How much of an epoch each data set gives."""

    temperature: float = Field(
        1.0, gt=0, description="1 samples by size; large values sample uniformly"
    )
