"""Starts the processes of data-parallel training, or joins processes that already run."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from burnish.errors import RecipeError, WorkerLostError, quantity
from burnish.recipe.objectives import SETTINGS
from burnish.recipe.schema import Recipe
from burnish.training.data_parallel import Team
from burnish.training.objectives import OBJECTIVES
from burnish.training.objectives.base import Objective

# The module that the other processes run.
_PROGRAM = "burnish.training.worker"
BACKEND = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
# This many processes may be used on a CPU, however few cores it has.
_ALWAYS = 2
# The other processes wait while the leader validates, or evaluates before the next training. The
# end of a process is noticed at once all the same, because its connection closes.
PATIENCE = timedelta(days=1)


@contextmanager
def gathered(workers: int, run: Path, device: torch.device) -> Iterator[Team]:
    """Yield the team that trains `run`: this process as the leader, and `workers` - 1 others.

    If torch.distributed is initialised already, as in Ray, the others belong to its group and wait
    for the run. Otherwise they are started on this machine, and end with the `with` block.

    Raises:
        RecipeError: there are fewer GPUs, or cores, than processes.
        WorkerLostError: a process ended before it joined.
    """
    if workers == 1:
        yield Team()
    elif distributed.is_initialized():
        yield _announce(Team(0, distributed.get_world_size()), run)
    else:
        _check_devices(workers, device)
        with _started(workers, device) as team:
            yield _announce(team, run)


def join(store: Path, rank: int, size: int, device: torch.device) -> Team:
    """Make this process the member `rank` of a team; all members have to see the file `store`."""
    if device.type == "cuda":
        torch.cuda.set_device(rank)
    file = _store(store, size)
    file.set(f"here-{rank}", "")
    backend = BACKEND[device.type]
    distributed.init_process_group(
        backend, store=file, rank=rank, world_size=size, timeout=PATIENCE
    )
    return Team(rank, size)


def _announce(team: Team, run: Path) -> Team:
    """Send the other processes the run that they have to train."""
    team.told(run.resolve())
    return team


def _check_devices(workers: int, device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < workers:
        raise RecipeError(
            f"training.workers is {workers}, but torch sees "
            + quantity(torch.cuda.device_count(), "GPU"),
            "set it to at most the number of GPUs",
            code="too_many_workers",
            workers=workers,
            gpus=torch.cuda.device_count(),
        )
    if device.type == "cpu" and workers > max(_ALWAYS, cores := os.cpu_count() or 1):
        raise RecipeError(
            f"training.workers is {workers}, but this machine has {quantity(cores, 'core')}",
            "set it to at most the number of cores",
            code="too_many_workers",
            workers=workers,
            cores=cores,
        )


@contextmanager
def _started(workers: int, device: torch.device) -> Iterator[Team]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="burnish-team-"))
        stack.enter_context(_on_this_machine(workers))
        store = Path(folder) / "store"
        others = [_start(store, rank, workers, device) for rank in range(1, workers)]
        stack.callback(_kill, others)
        _wait_for(store, others, workers)
        team = join(store, 0, workers, device)
        stack.callback(distributed.destroy_process_group)
        yield team


@contextmanager
def _on_this_machine(workers: int) -> Iterator[None]:
    """Divide the cores between the processes, and use only the loopback network device."""
    threads, before = torch.get_num_threads(), os.environ.get("GLOO_SOCKET_IFNAME")
    torch.set_num_threads(max(1, threads // workers))
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
        if before is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = before


def _start(store: Path, rank: int, size: int, device: torch.device) -> "subprocess.Popen[bytes]":
    arguments = [str(os.getpid()), str(store), str(rank), str(size), str(torch.get_num_threads())]
    # In its own process group, so that Ctrl-C reaches only the leader.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _PROGRAM, *arguments, device.type],
        stdin=subprocess.DEVNULL,
        process_group=0,
    )


def _wait_for(store: Path, others: "Sequence[subprocess.Popen[bytes]]", size: int) -> None:
    """Wait until all processes have started; joining would wait forever for one that failed."""
    file = _store(store, size)
    while not file.check([f"here-{rank}" for rank in range(1, size)]):
        ended = next((one.returncode for one in others if one.poll() is not None), None)
        if ended is not None:
            raise WorkerLostError(
                f"a worker of this training ended with exit code {ended} before training",
                "check its output, then continue with --resume",
                code="worker_not_started",
                returncode=ended,
            )
        time.sleep(0.02)


def _kill(others: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Kill the processes; nothing is lost, because the leader has all of their state."""
    for one in others:
        one.kill()
        one.wait()


def _store(path: Path, size: int) -> Any:
    return distributed.FileStore(str(path), size)  # type: ignore[attr-defined]


def check_workers(recipe: Recipe) -> None:
    """Check that several processes can train the recipe with the same result as one process.

    Raises:
        RecipeError: the objective or the settings do not allow it.
    """
    objective, workers = OBJECTIVES[recipe.objective], recipe.training.workers
    collects = objective.collect is not Objective.collect
    if workers > 1 and (collects or not objective.additive):
        raise RecipeError(
            f"training.workers is {workers}, but objective {recipe.objective} "
            + (
                "samples its training data" if collects else "needs a batch as a whole for its loss"
            ),
            "set training.workers to 1",
            code="objective_collects" if collects else "objective_not_additive",
            key="training.workers",
            value=workers,
            objective=recipe.objective,
        )
    if recipe.training.fsdp:
        _check_sharded(recipe)


def _check_sharded(recipe: Recipe) -> None:
    """Sharding needs unquantized weights, and only whole passes keep the processes in step."""
    value: Any
    if recipe.training.workers == 1:
        key, value, seen = "training.workers", 1, "training.workers is 1"
        remedy = "set it to the number of GPUs"
    elif recipe.method_traits.four_bit:
        key, value, seen = "method", recipe.method, "4-bit weights cannot be sharded"
        remedy = "set method to lora"
    elif not recipe.objective_settings.can_shard:
        able = [name for name, settings in SETTINGS.items() if settings.can_shard]
        key, value = "objective", recipe.objective
        seen = f"objective {value} needs additional forward passes through the model"
        remedy = f"leave training.fsdp out, or set objective to one of {', '.join(able)}"
    else:
        return
    seen = f"training.fsdp is true, but {seen}"
    raise RecipeError(seen, remedy, code="sharded_unsupported", key=key, value=value)
