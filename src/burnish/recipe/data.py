"""The recipe's data sets: `data`, `tasks` that are trained together with it, and `mixing`."""

from pathlib import Path

from pydantic import Field

from burnish.recipe.section import Fraction, Section


class Split(Section):
    """Shares of the rows that are held out if the recipe has no validation or test file."""

    validation: Fraction = Field(
        0.1, description="share of the rows held out to choose a checkpoint"
    )
    test: Fraction = Field(0.25, description="share of the rows held out to measure the gain")


class Data(Section):
    """The files of a data set, and how their rows are read and split."""

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
    """Another data set that is trained together with `data`, with the same objective."""

    weight: float = Field(1.0, gt=0, description="sampling weight relative to its size")


class Mixing(Section):
    """The share of each data set in an epoch."""

    temperature: float = Field(
        1.0, gt=0, description="1 samples by size; large values sample uniformly"
    )
