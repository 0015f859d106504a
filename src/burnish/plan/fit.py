"""Checks that a run fits into memory and onto the disk, and suggests settings that fit."""

from dataclasses import dataclass
from pathlib import Path

from burnish.errors import UserError
from burnish.plan.memory import Batch, Shapes, memory
from burnish.recipe.schema import Recipe

GIB = 2**30
# A remedy and the recipe values that it names.
_Fitting = tuple[str, dict[str, int | str]]


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Free bytes: memory for one process, and disk space in the output folder."""

    memory: int
    disk: int


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the files of a run: checkpoints, 2 optimizer states, released weights, results."""

    checkpoint: int
    checkpoints: int
    optimizer: int
    results: int

    @property
    def total(self) -> int:
        """The peak, while a new optimizer state is written and two older ones still exist."""
        return self.checkpoint * (self.checkpoints + 1) + 3 * self.optimizer + self.results


def needs_checkpointing(shapes: Shapes, batch: Batch, free: int) -> bool:
    """Whether a step fits into the `free` bytes of a GPU only if activations are recomputed.

    A tenth is left for what the allocator cannot use.
    """
    return memory(shapes, batch).total > 0.9 * free


def check_memory(
    recipe: Recipe,
    shapes: Shapes,
    batch: Batch,
    program: int,
    free: FreeSpace,
    *,
    checkpointing: bool = False,
) -> None:
    """Checks that the largest training step fits into memory.

    Raises:
        UserError: it does not fit; suggests a smaller batch with more gradient accumulation, LoRA
            instead of full fine-tuning, or shorter rows.
    """
    needed = memory(shapes, batch, program=program, checkpointing=checkpointing).total
    if needed <= free.memory:
        return
    workers = recipe.training.workers
    whose = f" for each of {workers} workers" if workers > 1 else ""
    remedy, settings = suggest_settings(recipe, shapes, batch, program, free.memory)
    raise UserError(
        f"a training step needs about {needed / GIB:.1f} GiB of memory, but only "
        f"{free.memory / GIB:.1f} GiB are free{whose}",
        remedy,
        code="too_little_memory",
        needed=needed,
        free=free.memory,
        settings=settings,
    )


def suggest_settings(
    recipe: Recipe, shapes: Shapes, batch: Batch, program: int, free: int
) -> _Fitting:
    """Returns the remedy as an imperative sentence, and the recipe values that it names."""
    training = recipe.training
    for rows in range(training.batch_size - 1, 0, -1):
        if training.batch_size % rows:
            continue
        smaller = batch.of_rows(max(1, round(batch.rows * rows / training.batch_size)))
        if (size := memory(shapes, smaller, program=program).total) <= free:
            accumulation = training.gradient_accumulation * training.batch_size // rows
            remedy = (
                f"set training.batch_size={rows} with training.gradient_accumulation="
                f"{accumulation}, which needs about {size / GIB:.1f} GiB"
            )
            return remedy, {
                "training.batch_size": rows,
                "training.gradient_accumulation": accumulation,
            }
    single = batch.of_rows(1)
    if recipe.method_traits.trains == "all weights":
        lora = shapes.with_lora(recipe.lora.rank)
        if (size := memory(lora, single, program=program).total) <= free:
            remedy = (
                f"set method=lora with training.batch_size=1, which needs about {size / GIB:.1f} "
                "GiB"
            )
            return remedy, {"method": "lora", "training.batch_size": 1}
    for share in (0.75, 0.5, 0.25, 0.125):
        shorter = single.of_length(share)
        if memory(shapes, shorter, program=program).total <= free:
            tokens = shorter.computed
            remedy = f"set training.batch_size=1 and training.max_length={tokens}, which fits"
            return remedy, {"training.batch_size": 1, "training.max_length": tokens}
    weights = shapes.parameters * shapes.number / GIB
    return f"choose a smaller model, because the weights alone need {weights:.1f} GiB", {}


def check_disk(recipe: Recipe, disk: Disk, free: FreeSpace) -> None:
    """Checks that the files of the run fit onto the disk.

    Raises:
        UserError: they do not fit; suggests fewer checkpoints, or LoRA, if that would fit.
    """
    if disk.total <= free.disk:
        return
    fixed = disk.total - disk.checkpoint * disk.checkpoints
    fitting = (free.disk - fixed) // max(1, disk.checkpoint)
    fits: _Fitting = ("free some disk space, or choose another folder with --output", {})
    if fitting >= 1:
        remedy = f"set training.checkpoints={fitting} and training.evaluations={fitting}"
        fits = remedy, {"training.checkpoints": fitting, "training.evaluations": fitting}
    elif recipe.method_traits.trains == "all weights":
        fits = "set method=lora, whose checkpoints contain only the adapter", {"method": "lora"}
    remedy, settings = fits
    raise UserError(
        f"the run writes about {disk.total / GIB:.1f} GiB, but only {free.disk / GIB:.1f} GiB are "
        f"free in {recipe.output}",
        remedy,
        code="too_little_disk",
        needed=disk.total,
        free=free.disk,
        path=str(recipe.output),
        settings=settings,
    )


def nearest_folder(path: Path) -> Path:
    """Returns the folder, or its nearest parent that exists."""
    path = path.resolve()
    while not path.is_dir():
        path = path.parent
    return path
