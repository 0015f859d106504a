"""What the training bar says."""

import io

from rich.console import Console

from burnish.progress import Bars


def test_the_last_validation_is_shown() -> None:
    """It comes after the last step."""
    bars, written = Bars(), io.StringIO()
    bars.console = Console(file=written, width=120)
    with bars.training(2) as listen:
        for step, loss in ((1, 0.5), (2, 0.25)):
            listen("train", {"step": step, "loss": 1.0, "learnt_tokens_per_second": 7.0})
            listen("validation", {"step": step, "loss": loss})
    assert "2/2 loss 1.000 · val 0.250 · 7 tok/s" in written.getvalue()
