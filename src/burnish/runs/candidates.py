"""The candidates of a search and their order of testing: the content of `frontier.json`."""

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that could be released: a checkpoint with its adapter multiplied by `scale`.

    Gain and drop are in points (1 = 0.01). Values that were not measured are None: a candidate may
    be dropped before any generation. Nothing here was measured on CERT or on the test set.

    Attributes:
        weights: sha256 of the checkpoint's adapter.
        step: the checkpoint.
        scale: factor of the adapter; 0 is the base model, 1 the checkpoint as trained.
        slope: how much the scale falls from the last layer to the first (LiNeS); 0 if all layers
            have the same scale.
        gain: target score on the validation rows minus the base's; None without such rows.
        gain_range: its 95% interval.
        drop: points by which the suite mean fell on PROBE; of several suites the one that uses
            most of its budget, in points of the general budget.
        drop_range: its 95% interval.
        text_loss: rise of perplexity on PROBE's prose, in percent.
        kl: divergence from the base in nats per token on PROBE's openings.
        attempt: the healing attempt of the checkpoint; empty for the run itself.
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
        """For example `step 40 at scale 0.75`, or `3-anchor, step 40 at scale 1`."""
        tilted = f", slope {self.slope:g}" if self.slope else ""
        healed = f"{self.attempt}, " if self.attempt else ""
        return f"{healed}step {self.step} at scale {self.scale:g}{tilted}"

    @property
    def worth(self) -> float | None:
        """The gain, or the scale as a substitute without rows to measure the gain on."""
        if self.gain is None and self.drop is not None:
            return self.scale
        return self.gain


@dataclass(frozen=True, slots=True)
class Frontier:
    """All candidates; `order` and `released` are indices into them.

    `order` is the order of testing, safest first. `released` is None before certification, and if
    no candidate passed.
    """

    candidates: tuple[Candidate, ...]
    order: tuple[int, ...] = ()
    released: int | None = None
