"""The process that runs one job's recipe on a Ray cluster, by Ray Train.

    python -m burnish.serving.jobs.run_on_ray WORKER_PID RECIPE [ADDRESS]

To its worker it is what `run_recipe` is: the same exit codes, SIGINT writes a checkpoint and ends
it, and with it ends the job. The recipe says how many processes learn; the first of them
runs all stages, the others join its training. Every machine of the cluster has to see the job's
folder under the same path. Its part `ray` holds what the two sides tell each other.
"""

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from burnish.errors import RunError, WorkerLostError
from burnish.processes import die_with
from burnish.recipe.schema import Recipe, load_recipe
from burnish.runs.atomic import write_atomic
from burnish.runs.directory import RunDirectory
from burnish.serving.jobs.process import folder_lock
from burnish.serving.jobs.run_recipe import DONE, LOST, STOPPED, work
from burnish.terminal import write

_MISTAKE = 1
# So often Ray begins again, at the last checkpoint, where a process or its machine was lost.
_KILLS = 5
# Seconds between looks at the other side, and until a cluster that does not answer is asked again.
_TICK, _AGAIN = 0.2, 5.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing phones home
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a model may be named by a relative path
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more, and nobody asks it
}


def main(arguments: Sequence[str]) -> int:
    """Run the recipe on the cluster until it ends, and return the exit code."""
    worker, recipe, *address = arguments
    die_with(int(worker))
    os.environ.update(_ENVIRONMENT)
    return _Submission(Path(recipe)).run(*address)


class _Submission:
    """One attempt at a recipe on the cluster."""

    def __init__(self, path: Path) -> None:
        self.path, self.recipe = path, load_recipe(path)
        self.told = path.parent / "ray"
        for name in ("code", "stop"):
            (self.told / name).unlink(missing_ok=True)

    def run(self, address: str | None = None) -> int:
        """The exit code."""
        query = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: query.set())
        # In the main thread Ray would take SIGINT for itself and end the job without a checkpoint.
        fitting = threading.Thread(target=self._fit, args=(address,), daemon=True)
        fitting.start()
        while fitting.is_alive() and self._code() in (DONE, LOST):
            fitting.join(_TICK)
            if query.is_set():
                if not self._learns():  # nothing would be lost
                    return STOPPED
                self.told.mkdir(exist_ok=True)
                (self.told / "stop").touch()
        write(self._ending()[1], error=True)
        return self._code()  # what still runs on the cluster ends with this process

    def _code(self) -> int:
        return int(self._ending()[0])

    def _ending(self) -> tuple[str, str]:
        """What the leader left: the exit code, and a traceback if it was our mistake."""
        left = self.told / "code"
        code, _, said = (left.read_text() if left.exists() else str(LOST)).partition("\n")
        return code, said

    def _learns(self) -> bool:
        run = RunDirectory(self.recipe.output / self.recipe.name)
        try:
            return run.manifest().state == "training"
        except RunError:
            return False

    def _fit(self, address: str | None) -> None:
        from ray.train import FailureConfig, RunConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        from burnish.training.launch import BACKEND, PATIENCE

        _connect(address)
        storage = self.told / "storage"
        scaling = _scaling(self.recipe)
        trainer = TorchTrainer(
            _take_part,
            train_loop_config={"recipe": str(self.path)},
            scaling_config=scaling,
            torch_config=TorchConfig(
                BACKEND["cuda" if scaling.use_gpu else "cpu"],
                timeout_s=int(PATIENCE.total_seconds()),
            ),
            run_config=RunConfig(
                name=str(time.time_ns()),
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=_KILLS),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            write(str(error), error=True)
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _connect(address: str | None) -> None:
    """A cluster that does not answer is asked again: the job waits, as it waits for free cores."""
    import ray

    while True:
        try:
            ray.init(address=address)
            return
        except ConnectionError as error:
            write(str(error), error=True)
            time.sleep(_AGAIN)


def _scaling(recipe: Recipe) -> Any:
    """A GPU for each process where there are enough, else an equal part of one machine's cores."""
    import ray
    from ray.train import ScalingConfig

    workers = recipe.training.workers
    gpus = ray.cluster_resources().get("GPU", 0)
    if recipe.device != "cpu" and gpus >= workers:
        return ScalingConfig(num_workers=workers, use_gpu=True)
    cores = max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
    part = max(1, cores // workers)
    return ScalingConfig(num_workers=workers, resources_per_worker={"CPU": part})


def _take_part(given: dict[str, str]) -> None:
    """What each process of the cluster does."""
    from torch import distributed

    from burnish.training.data_parallel import Team
    from burnish.training.worker import follow

    team = Team(distributed.get_rank(), distributed.get_world_size())
    if not team.leads:
        follow(team)
        return
    _lead(Path(given["recipe"]))
    team.told(None)  # there is nothing more to learn


def _lead(recipe: Path) -> None:
    """Runs all stages and leaves the exit code, at which the submission ends all processes.

    Raises:
        WorkerLostError: another process is gone. There is no exit code, so Ray begins again.
    """
    from burnish.training.signals import stopped_by

    told, said = recipe.parent / "ray", ""
    with _alone(told), _asked(told / "stop") as query, stopped_by(query):
        try:
            code = work(recipe)
        except Exception:  # its worker's log is where it is looked for
            code, said = _MISTAKE, traceback.format_exc()
        if code == LOST:
            raise WorkerLostError(
                "another process of this job ended unexpectedly",
                "check its output",
                code="worker_lost",
            )
        write_atomic(told / "code", f"{code}\n{said}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The process of an attempt whose submission was killed may live for a moment longer."""
    while True:
        with folder_lock(folder) as lock:
            if lock is not None:
                yield
                return
        time.sleep(_TICK)


@contextmanager
def _asked(stop: Path) -> Iterator[threading.Event]:
    """An event that is set once the file is there."""
    query, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(_TICK):
            if stop.exists():
                query.set()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield query
    finally:
        over.set()
        looking.join()


if __name__ == "__main__":
    # Ray hands functions on by the name of their module, which here would be __main__.
    from burnish.serving.jobs.run_on_ray import main as by_name

    code = by_name(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # Ray's own way out waits for what still runs there
