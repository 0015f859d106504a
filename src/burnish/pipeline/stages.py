"""Sequential fine-tuning: each stage starts from the one before; all test sets follow each stage.

A stage is a run of its own in the recipe's folder, so it can be opened, served and resumed. The
folder's `ledger.json` contains one row per test set and stage, and one row per earlier task for
what it has lost since its own stage, which has a budget of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.certification.alpha_ledger import inherit_looks
from burnish.certification.ledger import earlier_row
from burnish.certification.run_ledger import check_budgets, target_ledger
from burnish.data.load import check_file
from burnish.errors import RecipeError, UserError
from burnish.evaluation.load_suite import load_suites
from burnish.evaluation.measure import (
    check_scorers,
    check_suites,
    check_tested,
    measure,
    target_task,
)
from burnish.models.lineage import check_method
from burnish.pipeline import verbs
from burnish.progress import Bars, on_timeline
from burnish.recipe.files import check_name
from burnish.recipe.problems import quotable
from burnish.recipe.schema import Recipe, changed_recipe
from burnish.runs.directory import LedgerRow, Manifest, RunDirectory, Verdict
from burnish.runs.times import add_times, log_times
from burnish.training.launch import check_workers


def stage_recipes(recipe: Recipe) -> list[Recipe]:
    """Returns one recipe per stage, with the stage's values, which starts from the stage before.

    Raises:
        RecipeError: a stage has no valid name, two stages have the same name, or a value is wrong.
    """
    folder, made = recipe.output / recipe.name, []
    names: list[str] = []
    for number, stage in enumerate(recipe.stages, 1):
        values = dict(stage)
        name = values.pop("name", None)
        if not isinstance(name, str) or not name or name in names:
            raise RecipeError(
                f"stage {number} has no unique name ({name!r})",
                "give each stage a different name",
                code="bad_stage_name",
                stage=number,
                value=quotable(name),
            )
        check_name(name, f"stage {number}: ")
        names.append(name)
        before = folder / f"{number - 1}-{names[-2]}" if number > 1 else recipe.init_from
        chain: dict[str, Any] = {"stages": [], "output": folder, "name": f"{number}-{name}"}
        if before is not None:
            chain |= {"init_from": before, "init": values.pop("init", "continue")}
        if "data" in values:  # a stage's data set inherits nothing from the recipe's
            chain["data"] = values.pop("data")
        try:
            made.append(changed_recipe(recipe, _flat(values) | chain))
        except RecipeError as error:
            raise error.within(f"stage {name}: ") from error
    return made


@on_timeline
def run_stages(recipe: Recipe, *, resume: bool = False, quiet: bool = False) -> RunDirectory:
    """Runs every stage and measures all earlier test sets after each.

    A stage is held if its own verdict is hold, or if an earlier stage's task is not shown to stay
    within its budget. The next stage then starts from the last stage that was not held.

    Returns:
        The folder of all stages, whose ledger has the results and whose verdict is the last one's.

    Raises:
        UserError: a stage cannot be run; this is checked before the first stage starts.
    """
    recipes = stage_recipes(recipe)
    _check(recipes)
    folder = RunDirectory(recipe.output / recipe.name)
    bars = Bars(quiet=quiet)
    kept: list[tuple[Recipe, RunDirectory]] = []
    done: list[RunDirectory] = []
    rows: list[LedgerRow] = []
    verdict: Verdict | None = None
    for planned in recipes:
        stage = _start_from_last_kept(planned, recipe, kept)
        path = stage.output / stage.name
        run = verbs.run(stage, resume=resume and path.exists(), quiet=quiet)
        done.append(run)
        after = _measure_after_stage(folder, [*kept, (stage, run)], bars)
        rows += after
        verdict = _with_earlier(run.verdict(), after)
        if _may_build_on(stage, verdict, after):
            kept.append((stage, run))
        else:
            inherit_looks(run, folder)
            stays = kept[-1][1].path if kept else recipe.model
            reasons = dict.fromkeys((*verdict.reasons, f"Later stages start from {stays}."))
            verdict = replace(verdict, reasons=tuple(reasons))
            run.write_verdict(verdict)
            verbs.report(run)
            bars.say(f"[yellow]stage {stage.name} was held[/]: continuing from {stays}")
    assert verdict is not None
    folder.write_manifest(
        Manifest(
            name=recipe.name,
            state="certified",
            recipe=recipe.model_dump(mode="json"),
            origins=dict(recipe.origins),
            model=done[-1].manifest().model,
            lineage={
                "stages": [str(run.path) for run in done],
                "kept": [str(run.path) for _, run in kept],
            },
        )
    )
    folder.write_ledger(rows)
    folder.write_verdict(verdict)
    log_times(folder)
    add_times(folder, done)
    return folder


def _check(recipes: Sequence[Recipe]) -> None:
    """Checks all stages before the first one is trained.

    Raises:
        UserError: a file of a stage cannot be read, or its settings do not fit its data or the
            stage before.
    """
    for before, stage in zip((None, *recipes), recipes, strict=False):
        if (stage.output / stage.name).exists():
            continue  # the stage has saved its rows, and may be finished
        parts = (stage.data, *stage.tasks.values())
        files = [file for part in parts for file in (part.train, part.validation, part.test)]
        try:
            check_tested(stage)
            check_scorers(stage)
            check_workers(stage)
            for file in filter(None, (*files, stage.replay.data)):
                check_file(file)
            suites = load_suites(stage.evaluate.general or ())
            check_budgets(stage, suites)
            check_suites(stage, suites)
            check_method(stage, before)
        except UserError as error:
            raise error.within(f"stage {stage.name}: ") from error


def _start_from_last_kept(
    planned: Recipe, recipe: Recipe, kept: Sequence[tuple[Recipe, RunDirectory]]
) -> Recipe:
    """The stage's recipe, which starts from the last stage that was not held."""
    start = kept[-1][1].path if kept else recipe.init_from
    return changed_recipe(planned, {"init_from": start})


def _may_build_on(stage: Recipe, verdict: Verdict, after: Sequence[LedgerRow]) -> bool:
    """Whether the next stage may start from this one: it was released, or passed all tests."""
    if stage.evaluate.general:
        return verdict.decision == "release"
    judged = [row for row in after if row.passed is not None]
    return all(row.passed for row in judged)


def _with_earlier(verdict: Verdict, after: Sequence[LedgerRow]) -> Verdict:
    """Adds the results on the tasks of earlier stages to a stage's verdict."""
    fallen = [row for row in after if row.kind == "earlier" and row.passed is not None]
    decision = verdict.decision
    reasons: list[str] = []
    for row in fallen:
        assert row.budget is not None
        assert row.bound is not None
        fell, most = -100 * row.delta, -100 * row.bound
        verb = "stayed" if row.passed else "is not shown to have stayed"
        reasons.append(
            f"{row.task} {verb} within its budget: it fell by {fell:z.1f} points since its own "
            f"stage, at most {most:z.1f} (budget {100 * row.budget:g}, n = {row.n})."
        )
    broken = any(row.high < -(row.budget or 0.0) for row in fallen)
    if broken:
        decision = "hold"
    elif decision == "release" and not all(row.passed for row in fallen):
        decision = "inconclusive"
    # The reasons of a stage that was held are already in its verdict.
    unique = dict.fromkeys((*verdict.reasons, *reasons))
    return replace(verdict, decision=decision, reasons=tuple(unique))


def results_matrix(rows: Sequence[LedgerRow]) -> dict[str, dict[str, LedgerRow]]:
    """Returns the ledger rows by test set, then by the stage after which it was measured."""
    results: dict[str, dict[str, LedgerRow]] = {}
    for row in rows:
        if row.kind == "earlier":
            continue
        name, _, stage = row.task.partition(" after ")
        results.setdefault(name, {})[stage] = row
    return results


def _measure_after_stage(
    folder: RunDirectory, stages: Sequence[tuple[Recipe, RunDirectory]], bars: Bars
) -> list[LedgerRow]:
    """Measures the newest stage's model on its own test set and those of earlier stages.

    An earlier test set gives two rows: compared with the base, and with the model of its own stage.
    """
    newest = stages[-1][1]
    rows, model = [], None
    for recipe, run in stages:
        base = run.results("base", "target")
        tuned = newest.results("tuned", "target")
        test = run.split("test")
        if run is not newest:
            model = model or verbs.open_run(newest)
            task = replace(target_task(recipe, run, model), name=recipe.name)  # type: ignore[type-var]
            measure(folder, model, newest.path.name, [task], bars)
            tuned = folder.results(newest.path.name, recipe.name)
        name = f"{recipe.name} after {newest.path.name}"
        rows.append(replace(target_ledger(recipe, test, (base, tuned))[0], task=name))
        if run is not newest and recipe.budget.earlier is not None:
            pair = run.results("tuned", "target"), tuned
            since = target_ledger(recipe, test, pair, newest.verdict().confidence)[0]
            rows.append(earlier_row(name, since, recipe.budget.earlier))
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
