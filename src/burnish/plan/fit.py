"""What would fit where the recipe does not: computed from the same formulas, not guessed."""

from dataclasses import dataclass
from pathlib import Path

from burnish.errors import UserError
from burnish.plan.memory import Batch, Shapes, memory
from burnish.recipe.schema import Recipe

GIB = 2**30
# A remedy, and the settings of a recipe that it names.
_Fitting = tuple[str, dict[str, int | str]]


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Bytes that are free: memory for one process, and the disk of the output folder."""

    memory: int
    disk: int


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that a run leaves: checkpoints' weights, 2 optimizers, released weights, results."""

    checkpoint: int
    checkpoints: int
    optimizer: int
    results: int

    @property
    def total(self) -> int:
        """At the worst moment, when a new optimizer is written and two old ones still there."""
        return self.checkpoint * (self.checkpoints + 1) + 3 * self.optimizer + self.results


def check_memory(
    recipe: Recipe, shapes: Shapes, batch: Batch, program: int, free: FreeSpace
) -> None:
    """Refuses a recipe whose largest step does not fit.

    Raises:
        UserError: with the first setting that would fit: a smaller batch with as much more
            accumulation, adapters instead of all weights, or shorter rows.
    """
    needed = memory(shapes, batch, program=program).total
    if needed <= free.memory:
        return
    workers = recipe.training.workers
    whose = f" for each of {workers} workers" if workers > 1 else ""
    remedy, settings = suggest_settings(recipe, shapes, batch, program, free.memory)
    raise UserError(
        f"a training step needs about {needed / GIB:.1f} GiB of memory and "
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
    """The remedy as an imperative sentence, and the settings that it names."""
    given = recipe.training
    for rows in range(given.batch_size - 1, 0, -1):
        if given.batch_size % rows:
            continue
        smaller = batch.of_rows(max(1, round(batch.rows * rows / given.batch_size)))
        if (size := memory(shapes, smaller, program=program).total) <= free:
            accumulation = given.gradient_accumulation * given.batch_size // rows
            remedy = (
                f"set training.batch_size={rows} with training.gradient_accumulation="
                f"{accumulation}, which needs about {size / GIB:.1f} GiB"
            )
            return remedy, {
                "training.batch_size": rows,
                "training.gradient_accumulation": accumulation,
            }
    single = batch.of_rows(1)
    if recipe.method == "full":
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
    return f"choose a smaller model, the weights of this one alone are {weights:.1f} GiB", {}


def check_disk(recipe: Recipe, disk: Disk, free: FreeSpace) -> None:
    """Refuses a recipe whose checkpoints do not fit.

    Raises:
        UserError: with the number of checkpoints that would fit, if any does.
    """
    if disk.total <= free.disk:
        return
    fixed = disk.total - disk.checkpoint * disk.checkpoints
    fitting = (free.disk - fixed) // max(1, disk.checkpoint)
    fits: _Fitting = ("free some room, or name another folder with --output", {})
    if fitting >= 1:
        remedy = f"set training.checkpoints={fitting} and training.evaluations={fitting}"
        fits = remedy, {"training.checkpoints": fitting, "training.evaluations": fitting}
    elif recipe.method == "full":
        fits = "set method=lora, whose checkpoints hold only the adapter", {"method": "lora"}
    remedy, settings = fits
    raise UserError(
        f"the run writes about {disk.total / GIB:.1f} GiB and {free.disk / GIB:.1f} GiB are free "
        f"at {recipe.output}",
        remedy,
        code="too_little_disk",
        needed=disk.total,
        free=free.disk,
        path=str(recipe.output),
        settings=settings,
    )


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the first one above it that exists."""
    path = path.resolve()
    while not path.is_dir():
        path = path.parent
    return path
