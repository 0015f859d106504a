"""Aliases: a stable name that points to a released model."""

from pathlib import Path

from burnish.parity.compare import alias_blocker
from burnish.parity.record import read_parity
from burnish.serving.state import models
from burnish.serving.state.installation import Service


def point(service: Service, name: str, target: str, *, force: bool = False) -> str | None:
    """Point the alias `name` to the model `target`; see `models.alias` for the other arguments.

    Returns:
        What there is to say of its parity: there is no certificate, or force passed over a
        difference; None where parity was shown.

    Raises:
        UserError: its certificate of parity names a difference, or what `models.alias` refuses.
    """
    run = _run_of(service, target)
    difference = alias_blocker(run) if run is not None else None
    models.alias(service.database, name, target, force=force, difference=difference)
    if difference is not None:
        return f"forced despite a failed parity check: {difference}"
    if run is None or read_parity(run) is None:
        return f"{target} has no parity certificate; create one with `burnish parity RUN`"
    return None


def _run_of(service: Service, target: str) -> Path | None:
    """The run of a finished job's model; checkpoints were not judged, and others have no run."""
    row = models.find(service.database, target)
    if row is None or row.step is not None:
        return None
    run = (service.settings.folder / row.folder).parent
    return run if (run / "manifest.json").exists() else None
