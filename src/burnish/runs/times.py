"""The seconds that each phase of a run took, over every time that it was started or resumed.

They are logged as events, so that a killed run has those up to its last checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from burnish.progress import PHASES, current_timeline
from burnish.runs.directory import RunDirectory

_EVENT = "times"


@contextmanager
def timed_run(directory: RunDirectory) -> Iterator[None]:
    """Add the seconds since the last call to the run's manifest, however the `with` block ends."""
    try:
        yield
    finally:
        if (directory.path / "manifest.json").exists():  # a refused run leaves nothing behind
            log_times(directory)
            manifest = directory.manifest()
            manifest.times = phase_times(directory)
            directory.write_manifest(manifest)


def log_times(directory: RunDirectory) -> None:
    """Log the seconds of each phase since the last call.

    The seconds of a healing attempt belong to the run that it heals.
    """
    timeline = current_timeline()
    if timeline is not None and timeline.current != "healing":
        directory.log(_EVENT, seconds=timeline.taken())


def phase_times(directory: RunDirectory) -> dict[str, float]:
    """Return the seconds of each phase so far, in the order of the phases."""
    events = directory.events(_EVENT)
    sums = {
        name: sum(float(event["seconds"].get(name, 0.0)) for event in events) for name in PHASES
    }
    return {name: round(seconds, 2) for name, seconds in sums.items() if seconds >= 0.005}


def add_times(folder: RunDirectory, stages: Sequence[RunDirectory]) -> None:
    """Write the seconds of a folder of stages: its own and those of its stages."""
    parts = [phase_times(run) for run in (folder, *stages)]
    sums = {name: sum(part.get(name, 0.0) for part in parts) for name in PHASES}
    manifest = folder.manifest()
    manifest.times = {name: round(seconds, 2) for name, seconds in sums.items() if seconds}
    folder.write_manifest(manifest)


def shares(times: Mapping[str, float]) -> dict[str, float]:
    """Return each phase's share of the total time, between 0 and 1."""
    whole = sum(times.values())
    return {name: seconds / whole for name, seconds in times.items()} if whole else {}
