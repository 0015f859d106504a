"""Something that a check of rows saw, for people and for programs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the data check saw: `severity` error stops, warning and info do not.

    Programs decide by `kind` and `fields`, the values that the sentence names as JSON has them.
    """

    kind: str
    severity: Literal["error", "warning", "info"]
    seen: str
    count: int
    where: tuple[str, ...] = ()
    remedy: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """What was seen, and what to do about it in the words of a recipe."""
        return f"{self.seen}; {self.remedy}" if self.remedy else self.seen

    def to_row(self) -> dict[str, Any]:
        return {**asdict(self), "message": self.message}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Finding":
        values = {"seen": row["message"], **row, "where": tuple(row["where"])}
        del values["message"]
        return cls(**values)
