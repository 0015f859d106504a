"""What the search for the best model inside the budget found, as `frontier.json` holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model that could be released: a checkpoint whose adapter acts `scale` times as much.

    Gain and drop are in points (1 = 0.01). What was not measured is None: a candidate may be left
    behind before any answer was written. Nothing here was measured on CERT or on the test set.

    Attributes:
        weights: sha256 of the checkpoint's adapter.
        step: the checkpoint.
        scale: times the adapter's own scaling; 0 is the base model, 1 the checkpoint as trained.
        slope: how far the scale falls from the last layer to the first (LiNeS); 0 where all
            layers have the same.
        gain: target score on the validation rows less the base's; None without such rows.
        gain_range: its 95 % interval.
        drop: what the mean of the general suite lost on PROBE; of several the one that used most of
            its budget, in points of the general budget.
        drop_range: its 95 % interval.
        text_loss: percent that perplexity rose on PROBE's prose.
        kl: nats a token between base and candidate on PROBE's openings.
        attempt: the healing attempt whose checkpoint it is; empty for the run's own.
    """

    weights: str
    step: int
    scale: float
    slope: float = 0.0
    gain: float | None = None
    gain_range: Range | None = None
    drop: float | None = None
    drop_range: Range | None = None
    text_loss: float | None = None
    kl: float | None = None
    attempt: str = ""

    @property
    def key(self) -> str:
        """Two candidates with the same key are the same model."""
        return f"{self.weights}-{self.scale:g}-{self.slope:g}"

    @property
    def label(self) -> str:
        """Such as `step 40 at scale 0.75`, or `3-anchor, step 40 at scale 1`."""
        tilted = f", slope {self.slope:g}" if self.slope else ""
        healed = f"{self.attempt}, " if self.attempt else ""
        return f"{healed}step {self.step} at scale {self.scale:g}{tilted}"

    @property
    def worth(self) -> float | None:
        """The gain; where there are no rows to measure it, more of what was learnt is more."""
        if self.gain is None and self.drop is not None:
            return self.scale
        return self.gain

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Candidate":
        """A candidate from its JSON, which has lists for ranges."""
        ranges = {
            name: tuple(row[name]) if row[name] is not None else None
            for name in ("gain_range", "drop_range")
        }
        return cls(**{**row, **ranges})


@dataclass(frozen=True, slots=True)
class Frontier:
    """All candidates; `order` and `released` are places among them.

    `order` is that of testing, the safest first. `released` is None until the certificate, and
    where no candidate passed it.
    """

    candidates: tuple[Candidate, ...]
    order: tuple[int, ...] = ()
    released: int | None = None
