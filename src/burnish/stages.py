"""Sequential tuning: a list of stages, each from the last, all test sets measured after each.

A stage is a run of its own under the recipe's folder, so it can be opened, served and gone on
with; the folder's `ledger.json` holds the matrix: a row a test set and stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish import pipeline
from burnish.errors import RecipeError
from burnish.measurement import measure, target_ledger, target_task
from burnish.progress import Bars
from burnish.recipe import Recipe, changed_recipe
from burnish.run_directory import LedgerRow, Manifest, RunDirectory


def stage_recipes(recipe: Recipe) -> list[Recipe]:
    """One recipe a stage: the recipe with the stage's own values, started from the stage before.

    Raises:
        RecipeError: a stage has no name, a name comes twice, or a value is wrong.
    """
    folder, made = recipe.output / recipe.name, []
    names: list[str] = []
    for number, stage in enumerate(recipe.stages, 1):
        values = dict(stage)
        name = values.pop("name", None)
        if not isinstance(name, str) or not name or name in names:
            raise RecipeError(
                f"stage {number} has the name {name!r}", "give each stage a name of its own"
            )
        names.append(name)
        before = folder / f"{number - 1}-{names[-2]}" if number > 1 else recipe.init_from
        chain: dict[str, Any] = {"stages": [], "output": folder, "name": f"{number}-{name}"}
        if before is not None:
            chain |= {"init_from": before, "init": values.pop("init", "continue")}
        if "data" in values:  # another data set shares no column or file with the recipe's
            chain["data"] = values.pop("data")
        try:
            made.append(changed_recipe(recipe, _flat(values) | chain))
        except RecipeError as error:
            raise RecipeError(f"stage {name}: {error.seen}", error.remedy) from error
    return made


def run_stages(recipe: Recipe, *, resume: bool = False, quiet: bool = False) -> RunDirectory:
    """Runs every stage and measures all earlier test sets after each; a finished stage is kept."""
    recipes = stage_recipes(recipe)
    folder = RunDirectory(recipe.output / recipe.name)
    done: list[RunDirectory] = []
    rows: list[LedgerRow] = []
    for number, stage in enumerate(recipes):
        path = stage.output / stage.name
        done.append(pipeline.run(stage, resume=resume and path.exists(), quiet=quiet))
        rows += _after(folder, recipes[: number + 1], done, Bars(quiet=quiet))
    folder.write_manifest(
        Manifest(
            name=recipe.name,
            state="certified",
            recipe=recipe.model_dump(mode="json"),
            origins=dict(recipe.origins),
            model=done[-1].manifest().model,
            lineage={"stages": [str(run.path) for run in done]},
        )
    )
    folder.write_ledger(rows)
    return folder


def matrix(rows: Sequence[LedgerRow]) -> dict[str, dict[str, LedgerRow]]:
    """Test set -> stage after which it was measured -> its row."""
    found: dict[str, dict[str, LedgerRow]] = {}
    for row in rows:
        name, _, stage = row.task.partition(" after ")
        found.setdefault(name, {})[stage] = row
    return found


def _after(
    folder: RunDirectory, recipes: Sequence[Recipe], done: Sequence[RunDirectory], bars: Bars
) -> list[LedgerRow]:
    """The newest stage's model on the test sets of all stages so far."""
    newest = done[-1]
    rows, model = [], None
    for recipe, run in zip(recipes, done, strict=True):
        base = run.results("base", "target")
        tuned = newest.results("tuned", "target")
        if run is not newest:
            model = model or pipeline.open_run(newest)
            task = replace(target_task(recipe, run, model), name=recipe.name)  # type: ignore[type-var]
            measure(folder, model, newest.path.name, [task], bars)
            tuned = folder.results(newest.path.name, recipe.name)
        row = target_ledger(recipe, run.split("test"), (base, tuned))[0]
        rows.append(replace(row, task=f"{recipe.name} after {newest.path.name}"))
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
