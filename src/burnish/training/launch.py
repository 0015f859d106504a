"""How the processes of a team come together: started here, or there already."""

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

from burnish.errors import RecipeError, WorkerLostError
from burnish.recipe.objectives import SETTINGS
from burnish.recipe.schema import Recipe
from burnish.training.data_parallel import Team
from burnish.training.objectives import OBJECTIVES
from burnish.training.objectives.base import Objective

# The program that the other processes run.
_PROGRAM = "burnish.training.worker"
BACKEND = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
# Processes on a CPU that may try themselves out, however few cores it has.
_ALWAYS = 2
# The others wait for as long as the leader validates, or measures before the next training. A
# process that is gone is noticed at once all the same, by its closed connection.
PATIENCE = timedelta(days=1)


@contextmanager
def gathered(workers: int, run: Path, device: torch.device) -> Iterator[Team]:
    """The team that learns `run`: this process leads, and `workers` - 1 others join it.

    Where this process leads a group of torch.distributed already, as inside Ray, the others are in
    there and wait to be told. Otherwise they are started here, on this machine, and end with the
    block.

    Raises:
        RecipeError: there are fewer GPUs, or cores, than processes.
        WorkerLostError: one ended before it could join.
    """
    if workers == 1:
        yield Team()
    elif distributed.is_initialized():
        yield _told(Team(0, distributed.get_world_size()), run)
    else:
        _check_devices(workers, device)
        with _started(workers, device) as team:
            yield _told(team, run)


def join(store: Path, rank: int, size: int, device: torch.device) -> Team:
    """This process becomes one of a team; `store` is a file that all of them see."""
    if device.type == "cuda":
        torch.cuda.set_device(rank)
    file = _store(store, size)
    file.set(f"here-{rank}", "")
    backend = BACKEND[device.type]
    distributed.init_process_group(
        backend, store=file, rank=rank, world_size=size, timeout=PATIENCE
    )
    return Team(rank, size)


def _told(team: Team, run: Path) -> Team:
    team.told(run.resolve())
    return team


def _check_devices(workers: int, device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < workers:
        raise RecipeError(
            f"training.workers is {workers}, but torch sees {torch.cuda.device_count()} GPUs",
            "ask for as many workers as there are GPUs",
            code="too_many_workers",
            workers=workers,
            gpus=torch.cuda.device_count(),
        )
    if device.type == "cpu" and workers > max(_ALWAYS, cores := os.cpu_count() or 1):
        raise RecipeError(
            f"training.workers is {workers}, but this machine has {cores} cores",
            "ask for no more workers than cores",
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
    """The processes share the cores, and talk over the loopback device alone."""
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
    given = [str(os.getpid()), str(store), str(rank), str(size), str(torch.get_num_threads())]
    # A group of its own: Ctrl-C is the leader's to hand on.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _PROGRAM, *given, device.type],
        stdin=subprocess.DEVNULL,
        process_group=0,
    )


def _wait_for(store: Path, others: "Sequence[subprocess.Popen[bytes]]", size: int) -> None:
    """Joining waits for all of them, and one that cannot start would never come."""
    file = _store(store, size)
    while not file.check([f"here-{rank}" for rank in range(1, size)]):
        ended = next((one.returncode for one in others if one.poll() is not None), None)
        if ended is not None:
            raise WorkerLostError(
                f"a worker of this training ended with {ended} before it began",
                "see what it said, then continue with --resume",
                code="worker_not_started",
                returncode=ended,
            )
        time.sleep(0.02)


def _kill(others: "Sequence[subprocess.Popen[bytes]]") -> None:
    """They hold nothing that is not the leader's, too."""
    for one in others:
        one.kill()
        one.wait()


def _store(path: Path, size: int) -> Any:
    return distributed.FileStore(str(path), size)  # type: ignore[attr-defined]


def check_workers(recipe: Recipe) -> None:
    """Whether several processes can share the recipe's batches and still learn what one would.

    Raises:
        RecipeError: they cannot.
    """
    objective, workers = OBJECTIVES[recipe.objective], recipe.training.workers
    collects = objective.collect is not Objective.collect
    if workers > 1 and (collects or not objective.additive):
        raise RecipeError(
            f"training.workers is {workers}, but objective {recipe.objective} "
            + ("collects what it learns" if collects else "looks at a batch as a whole"),
            "set training.workers to 1",
            code="objective_collects" if collects else "objective_not_additive",
            key="training.workers",
            value=workers,
            objective=recipe.objective,
        )
    if recipe.training.fsdp:
        _check_sharded(recipe)


def _check_sharded(recipe: Recipe) -> None:
    """Only whole weights are kept in parts, and only whole passes keep the processes in step."""
    value: Any
    if recipe.training.workers == 1:
        key, value, seen = "training.workers", 1, "training.workers is 1"
        remedy = "set it to the number of GPUs"
    elif recipe.method_traits.four_bit:
        key, value, seen = "method", recipe.method, "4-bit weights cannot be kept in parts"
        remedy = "set method to lora"
    elif not recipe.objective_settings.can_shard:
        able = [name for name, settings in SETTINGS.items() if settings.can_shard]
        key, value = "objective", recipe.objective
        seen = f"objective {value} takes passes of its own through the model"
        remedy = f"leave it out, or set objective to one of {', '.join(able)}"
    else:
        return
    seen = f"training.fsdp is true, but {seen}"
    raise RecipeError(seen, remedy, code="sharded_unsupported", key=key, value=value)
