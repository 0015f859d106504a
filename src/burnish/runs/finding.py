"""A finding of the data check, for people and for programs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of the data check; only the severity `error` stops a run.

    Programs decide by `kind` and `fields`, which has the values in the sentence as JSON.
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
        """The finding, and what to do about it, if anything."""
        return f"{self.seen}; {self.remedy}" if self.remedy else self.seen

    def to_row(self) -> dict[str, Any]:
        """The finding as JSON, with its message."""
        return {**asdict(self), "message": self.message}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Finding":
        """Read a finding from JSON."""
        values = {"seen": row["message"], **row, "where": tuple(row["where"])}
        del values["message"]
        return cls(**values)
