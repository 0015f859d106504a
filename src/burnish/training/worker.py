"""An additional process of data-parallel training, which takes the same steps as the leader.

    python -m burnish.training.worker LEADER_PID STORE RANK SIZE THREADS DEVICE

It writes no files. It ends when the leader sends it no further run, or when the leader ends.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from burnish.errors import DivergedError, InterruptedRunError, WorkerLostError
from burnish.models.checkpointing import checkpoint_activations
from burnish.models.lineage import recipe_of
from burnish.processes import die_with
from burnish.runs.directory import RunDirectory
from burnish.training.build import open_training
from burnish.training.data_parallel import Team
from burnish.training.fsdp import Sharded
from burnish.training.launch import join


def main(arguments: Sequence[str]) -> int:
    """Take part in training until it ends, and return the exit code of the process."""
    leader, store, rank, size, threads, device = arguments
    die_with(int(leader))
    torch.set_num_threads(int(threads))
    try:
        follow(join(Path(store), int(rank), int(size), torch.device(device)))
    except WorkerLostError:  # the leader reports it, unless the leader itself ended
        return 1
    return 0


def follow(team: Team) -> None:
    """Train every run that the leader sends, until it sends None.

    Raises:
        WorkerLostError: the leader has ended.
    """
    while (run := team.told(_no_run())) is not None:
        # These errors occur in all processes at the same step, and the leader reports them.
        with contextlib.suppress(DivergedError, InterruptedRunError):
            _train_along(RunDirectory(run), team)


def _no_run() -> Path | None:
    return None


def _train_along(directory: RunDirectory, team: Team) -> None:
    manifest = directory.manifest()
    recipe = recipe_of(manifest)
    _, loop = open_training(directory, recipe)
    if "screen" in manifest.training:
        rate = manifest.training["screen"]["chosen"]
        loop.settings = replace(loop.settings, learning_rate=rate)
    if manifest.training.get("activation_checkpointing"):
        checkpoint_activations(loop.network)
    loop.team = Sharded(team.rank, team.size) if recipe.training.fsdp else team
    loop.run(resume=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
