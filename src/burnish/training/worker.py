"""A further process of a run's training: it opens the same run and takes the same steps.

    python -m burnish.training.worker LEADER_PID STORE RANK SIZE THREADS DEVICE

It writes nothing. It ends when it is told to, or when the leader is gone.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from burnish.errors import DivergedError, InterruptedRunError, WorkerLostError
from burnish.models.lineage import recipe_of
from burnish.processes import die_with
from burnish.runs.directory import RunDirectory
from burnish.training.build import open_training
from burnish.training.data_parallel import Team
from burnish.training.fsdp import Sharded
from burnish.training.launch import join


def main(arguments: Sequence[str]) -> int:
    """Take part in a training until it ends; return the exit code of the process."""
    leader, store, rank, size, threads, device = arguments
    die_with(int(leader))
    torch.set_num_threads(int(threads))
    try:
        follow(join(Path(store), int(rank), int(size), torch.device(device)))
    except WorkerLostError:  # which one, the leader tells, unless it is the one
        return 1
    return 0


def follow(team: Team) -> None:
    """Learns along with every training that the leader begins, until it says that all is over.

    Raises:
        WorkerLostError: the leader is gone.
    """
    while (run := team.told(_nothing())) is not None:
        # What all of them meet in the same step, the leader tells.
        with contextlib.suppress(DivergedError, InterruptedRunError):
            _learn_along(RunDirectory(run), team)


def _nothing() -> Path | None:
    return None


def _learn_along(directory: RunDirectory, team: Team) -> None:
    manifest = directory.manifest()
    recipe = recipe_of(manifest)
    _, loop = open_training(directory, recipe)
    if "screen" in manifest.training:
        rate = manifest.training["screen"]["chosen"]
        loop.settings = replace(loop.settings, learning_rate=rate)
    loop.team = Sharded(team.rank, team.size) if recipe.training.fsdp else team
    loop.run(resume=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
