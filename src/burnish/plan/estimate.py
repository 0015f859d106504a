"""Plans a run: counts its rows, computes its memory from shapes, and measures a few steps."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from burnish.certification.certify import next_look
from burnish.certification.power import power_sentences
from burnish.certification.run_ledger import budgets_of, suite_prefix, suite_sizes
from burnish.evaluation.load_suite import load_suites
from burnish.evaluation.measure import results_cache, target_task
from burnish.evaluation.suite import Suite, split_suite
from burnish.evaluation.tasks import Task
from burnish.models.checkpointing import can_checkpoint, checkpoint_activations
from burnish.models.from_run import Opened
from burnish.models.load import pick_device
from burnish.models.lora_targets import recipe_targets
from burnish.plan.fit import (
    GIB,
    Disk,
    FreeSpace,
    check_disk,
    check_memory,
    nearest_folder,
    needs_checkpointing,
)
from burnish.plan.memory import CUDA_CONTEXT, Batch, Memory, Shapes, memory
from burnish.plan.timing import (
    Clock,
    Steps,
    count_steps,
    task_seconds,
    training_seconds,
    validation_seconds,
    work_of,
)
from burnish.preflight.checkpoints import free_memory
from burnish.preflight.run import pick_items
from burnish.recipe.schema import Recipe
from burnish.runs.directory import RunDirectory
from burnish.runs.levels import level_sentences
from burnish.training.build import open_training
from burnish.training.data_parallel import parameters_of
from burnish.training.host_memory import peak_memory_mb
from burnish.training.loop import Loop
from burnish.training.lr_range_test import design
from burnish.training.schedule import is_due

# A line of results: question, expected, answer, score.
_RESULT = 600


@dataclass(frozen=True)
class Plan:
    """The needs of a run in bytes and seconds; `seconds` is None if nothing was measured.

    Attributes:
        rows: number of rows in each split.
        tokens: tokens read in the whole run.
        learnt_tokens: tokens of these that are trained on.
        steps: optimizer steps.
        device: the device of the plan and its number format.
        workers: number of data-parallel processes.
        memory: peak memory of one training process by purpose, computed from shapes.
        checkpointing: whether that is with activation checkpointing, as the run will train.
        checkpointed: bytes of the peak with activation checkpointing.
        peak: peak of the measured steps and items in bytes; None if nothing was measured, or if
            several processes will train.
        total_memory: bytes of that, or of the computed peak of all processes on this machine; on
            GPUs that of one process, since each has its own GPU.
        disk: disk space of the files that the run leaves.
        seconds: expected time by stage.
        power: sentences about the drop that the general suite can certify.
        targets: what LoRA adapts and what it leaves, where these are not all linear maps.
    """

    rows: dict[str, int]
    tokens: int
    learnt_tokens: int
    steps: int
    device: str
    workers: int
    memory: Memory
    checkpointing: bool
    checkpointed: int
    peak: int | None
    total_memory: int
    disk: Disk
    seconds: dict[str, float] | None
    power: list[str]
    targets: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON values, with totals."""
        values = asdict(self)
        values["memory"]["total"] = self.memory.total
        values["disk"]["total"] = self.disk.total
        if self.seconds is not None:
            values["seconds"]["total"] = sum(self.seconds.values())
        return values


def make_plan(
    directory: RunDirectory,
    recipe: Recipe,
    *,
    device: str | None = None,
    clock: Clock = time.perf_counter,
) -> Plan:
    """Plans the run whose data is in `directory`, a temporary copy that the steps may change.

    Args:
        directory: a run directory with the splits.
        recipe: the run's recipe.
        device: `cuda` estimates memory for CUDA even without a GPU here; None plans for the
            device that the run would choose.
        clock: returns seconds; process time does not depend on the load of the machine.

    Raises:
        UserError: the run does not fit into memory or onto the disk; names settings that fit.
    """
    started = clock()
    model, loop = open_training(directory, recipe)
    model.module, load = loop.model, clock() - started
    here, workers = pick_device(recipe.device), recipe.training.workers
    elsewhere = device == "cuda" and not torch.cuda.is_available()
    shapes = _shapes(recipe, loop, torch.bfloat16 if elsewhere else here.dtype)
    steps = count_steps(loop.batches, shapes, workers)
    weights = shapes.parameters * shapes.number
    on_cpu = not elsewhere and here.device == "cpu"
    program = _program(weights) if on_cpu else CUDA_CONTEXT
    tasks = _tasks(directory, recipe, model)
    disk = _disk(loop, steps, shapes, sum(len(task) for task in tasks))
    processes = workers if on_cpu else 1  # they share its memory
    free = FreeSpace((_free_memory(loop) + program + weights) // processes, _free_disk(recipe))
    if needed := checkpoints_by_need(recipe, loop):
        checkpoint_activations(loop.network)
    if not elsewhere:
        check_memory(recipe, shapes, steps.heaviest, program, free, checkpointing=needed)
    check_disk(recipe, disk, free)
    seconds = {} if elsewhere else _seconds(recipe, (model, loop), tasks, shapes, clock)
    read, learnt = _tokens(loop)
    computed = memory(shapes, steps.heaviest, program=program, checkpointing=needed)
    peak = None if elsewhere or workers > 1 else round(peak_memory_mb() * 2**20)
    return Plan(
        rows={name: len(directory.split(name)) for name in ("train", "validation", "test")},
        tokens=read,
        learnt_tokens=learnt,
        steps=steps.count,
        device="cuda, bfloat16, not measured" if elsewhere else str(here),
        workers=workers,
        memory=computed,
        checkpointing=needed,
        checkpointed=memory(shapes, steps.heaviest, program=program, checkpointing=True).total,
        peak=peak,
        total_memory=peak or processes * computed.total,
        disk=disk,
        seconds={"loading the model twice": 2 * load} | seconds if seconds else None,
        power=_power(directory, recipe),
        targets=_targets(recipe, loop),
    )


def checkpoints_by_need(recipe: Recipe, loop: Loop) -> bool:
    """Whether the run recomputes activations, because its GPU has too little memory for them.

    To be asked before the first step, while the model's weights are all that takes memory.
    """
    if loop.network.device.type != "cuda" or not can_checkpoint(loop.network):
        return False
    shapes = _shapes(recipe, loop, pick_device(recipe.device).dtype)
    heaviest = count_steps(loop.batches, shapes, recipe.training.workers).heaviest
    free = _free_memory(loop) + shapes.parameters * shapes.number
    return needs_checkpointing(shapes, heaviest, free)


def _shapes(recipe: Recipe, loop: Loop, dtype: torch.dtype) -> Shapes:
    """The shapes of the run's model; the weights of an adapter are trained in float32."""
    trained = torch.float32 if recipe.method_traits.is_adapter else dtype
    return Shapes.of(loop.model, loop.network.config, dtype, trained=trained)


def _targets(recipe: Recipe, loop: Loop) -> str | None:
    targets = recipe_targets(recipe, loop.network.model)
    return targets.sentence() if targets and targets.notable else None


def one_line(plan: Plan) -> str:
    """Returns a summary such as `about 6 min, 2.4 GB of memory, 0.20 GB of disk`."""
    parts = [
        f"{plan.total_memory / 1e9:.1f} GB of memory",
        f"{plan.disk.total / 1e9:.2f} GB of disk",
    ]
    if plan.seconds is not None:
        parts.insert(0, duration(sum(plan.seconds.values())))
    return "about " + ", ".join(parts)


def duration(seconds: float) -> str:
    """Formats a duration in seconds below two minutes, then in minutes, then in hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _seconds(
    recipe: Recipe,
    opened: tuple[Opened, Loop],
    tasks: Sequence[Task],
    shapes: Shapes,
    clock: Clock,
) -> dict[str, float]:
    model, loop = opened
    steps = count_steps(loop.batches, shapes)
    with tempfile.TemporaryDirectory(prefix="burnish-plan-") as folder:
        training = training_seconds(loop, steps, Path(folder), clock)
    validation = validation_seconds(loop, shapes, clock)
    passes = sum(is_due(s, steps.count, loop.settings.evaluations) for s in _all(steps))
    estimates = [
        task_seconds(model, task, base_cached=_cached(model, task), clock=clock) for task in tasks
    ]
    seconds = {
        "training": training,
        "validation": validation * passes,
        "evaluating the base model": sum(task.base for task in estimates),
        "evaluating the tuned model": sum(task.tuned for task in estimates),
    }
    if recipe.training.learning_rate == "auto" and (work := _screen_work(loop, shapes)):
        seconds = {"learning rate": training / steps.total * work} | seconds
    if recipe.training.preflight:
        work = _preflight_work(loop, shapes)
        seconds = {"preflight": training / steps.total * work} | seconds
    return seconds


def _screen_work(loop: Loop, shapes: Shapes) -> float:
    """Returns the work of the learning rate test: its steps, and passes over held-out rows."""
    plan = design(loop)
    passes = [items for number in plan.numbers for items in loop.batches.step(number)]
    work = sum(work_of(Batch.of(items), shapes) for items in passes)
    work += sum(work_of(Batch.of(group), shapes) for group in plan.groups) / 2
    return len(plan.factors) * work


def _preflight_work(loop: Loop, shapes: Shapes) -> float:
    """Returns the preflight's work: five passes over both items, two over each, one for logits."""
    items = pick_items([item for members in loop.batches.sets.values() for item in members])
    alone = [work_of(Batch.of([item]), shapes) for item in items]
    return 5 * work_of(Batch.of(items), shapes) + 2 * sum(alone) + alone[-1]


def _tasks(directory: RunDirectory, recipe: Recipe, model: Opened) -> Sequence[Task]:
    tasks: list[Task] = [target_task(recipe, directory, model)]
    for suite in _chosen(directory, recipe):
        tasks += [task for half in split_suite(suite) for task in half.tasks]
    return tasks


def _chosen(directory: RunDirectory, recipe: Recipe) -> list[Suite]:
    """The general suites whose items are known: the levels of some are not chosen yet."""
    return [suite for suite in _suites(directory, recipe) if suite.chosen]


def _suites(directory: RunDirectory, recipe: Recipe) -> list[Suite]:
    return load_suites(recipe.evaluate.general or (), directory.levels())


def _power(directory: RunDirectory, recipe: Recipe) -> list[str]:
    """Returns sentences about the drop that each suite's CERT part can certify."""
    certs = [split_suite(suite)[1] for suite in _chosen(directory, recipe)]
    budgets, look = budgets_of(recipe), next_look(directory, certs)
    lines = [
        suite_prefix(cert, certs) + line
        for cert in certs
        for line in power_sentences(suite_sizes(cert), budgets.alone(cert.name), look=look)
    ]
    open_suites = [suite for suite in _suites(directory, recipe) if not suite.chosen]
    lines += [
        f"The items of the suite {suite.name} are chosen when the base model is measured."
        for suite in open_suites
    ]
    return [*level_sentences(directory.levels()), *lines]


def _cached(model: Opened, task: Task) -> bool:
    """Whether the base model's results are cached from an earlier run."""
    with model.base():
        return (results_cache() / f"{model.fingerprint}-{task.hash}.jsonl").exists()


def _tokens(loop: Loop) -> tuple[int, int]:
    """Returns the number of tokens read and of tokens trained on in the whole run."""
    read = learnt = 0
    counts, epochs = loop.batches.counts(), loop.batches.epochs
    for name, items in loop.batches.sets.items():
        share = counts[name] * epochs / len(items)
        read += round(share * sum(item.size for item in items))
        learnt += round(share * sum(item.learnt for item in items))
    return read, learnt


def _disk(loop: Loop, steps: Steps, shapes: Shapes, results: int) -> Disk:
    """Returns the disk space, with trainable weights per checkpoint and a line per result."""
    settings, last = loop.settings, steps.count
    saves = sum(
        is_due(s, last, settings.evaluations) or is_due(s, last, settings.checkpoints) or s == last
        for s in _all(steps)
    )
    learning = shapes.learning * next(p.element_size() for p in parameters_of(loop.optimizer))
    return Disk(learning, saves, 2 * learning, 2 * _RESULT * results)


def _all(steps: Steps) -> range:
    return range(1, steps.count + 1)


def _program(weights: int) -> int:
    """Returns the bytes of this process without the model."""
    return max(0, int(psutil.Process().memory_info().rss) - weights)


def _free_memory(loop: Loop) -> int:
    return free_memory(loop.network.device)


def _free_disk(recipe: Recipe) -> int:
    return shutil.disk_usage(nearest_folder(recipe.output)).free


def gib(size: float) -> str:
    """Formats bytes as GiB or MiB."""
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.0f} MiB"
