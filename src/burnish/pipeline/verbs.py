"""The verbs: each stage reads and writes the run directory; notebooks and the CLI call these."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from burnish.certification.compare import compare as compare  # a verb of notebooks
from burnish.data.load import load
from burnish.evaluation.measure import (
    check_tested,
)
from burnish.evaluation.run_suites import run_suites, untrained_base
from burnish.healing.heal import (
    check_can_heal,
    check_no_adapter_options,
    is_release_healed,
)
from burnish.models.from_run import open_classifier as open_classifier  # a verb of notebooks
from burnish.models.from_run import open_run as open_run
from burnish.models.from_run import open_tuned as open_tuned  # a verb of notebooks
from burnish.models.lineage import recipe_of
from burnish.models.load import context_length, load_tokenizer
from burnish.models.registry import Source, resolve
from burnish.pipeline.adopt_adapter import adopt, is_foreign
from burnish.pipeline.evaluate import evaluate as evaluate
from burnish.pipeline.prepare import CheckedData, create_run, prepare
from burnish.pipeline.resume import (
    discard_order,
    discard_verdict,
)
from burnish.pipeline.train import check_subject, say_targets
from burnish.pipeline.train import train as train
from burnish.plan import Plan, make_plan
from burnish.plan.from_config import configuration_of, has_tokenizer, plan_configuration
from burnish.preflight import Check, run_checks
from burnish.progress import Bars, on_timeline, phase
from burnish.recipe.schema import (
    Recipe,
    changed_recipe,
    load_recipe,
    recipe_of_rows,
    resolve_recipe,
)
from burnish.reports.html import write_page
from burnish.reports.model_card import write_card
from burnish.runs.directory import RunDirectory
from burnish.runs.lock import alone_in
from burnish.runs.times import timed_run
from burnish.training.build import open_training
from burnish.training.objectives import OBJECTIVES


@on_timeline
def run(
    recipe: Path | str | Recipe, *, resume: bool = False, quiet: bool = False, **overrides: Any
) -> RunDirectory:
    """Trains, evaluates the base model and the tuned model, decides, and writes the report.

    Args:
        recipe: a recipe file, or a loaded recipe.
        resume: continue the interrupted run of that name.
        quiet: show no progress bars.
        overrides: recipe values, nested (`training={"epochs": 2}`) or dotted.
    """
    chosen = resolve_recipe(recipe, overrides)
    check_tested(chosen)  # now, not after training
    directory = train(chosen, resume=resume, quiet=quiet)
    evaluate(directory, quiet=quiet)
    with timed_run(directory), phase("report"):
        report(directory)
    return directory


def check(
    data: Path | str,
    model: str = "smollm2-135m",
    *,
    objective: str = "sft",
    drop_bad: bool = False,
    **columns: str,
) -> CheckedData:
    """Reads, checks, splits and renders a data file as a run would, without training."""
    values = {"model": model, "objective": objective, "data.drop_bad": drop_bad}
    named = {f"data.columns.{field}": column for field, column in columns.items()}
    return prepare(recipe_of_rows(data, values | named), resolve(model))


def recipe_to_check(path: Path | str, overrides: Mapping[str, Any]) -> Recipe:
    """Loads a recipe file, or makes a recipe for a data file; `overrides` has dotted keys."""
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        return load_recipe(path, overrides)
    return recipe_of_rows(path, overrides)


def check_recipe(recipe: Recipe) -> dict[str, CheckedData]:
    """Checks each data set of a recipe: its own under the empty name, then those of its tasks."""
    source = resolve(recipe.model)
    others = {name: prepare(recipe, source, data) for name, data in recipe.tasks.items()}
    return {"": prepare(recipe, source), **others}


@on_timeline
def preflight(recipe: Path | str | Recipe, *, quiet: bool = False, **overrides: Any) -> list[Check]:
    """Runs the preflight checks of a run without starting it; nothing is saved."""
    chosen = resolve_recipe(recipe, overrides)
    with _temporary_run(chosen, quiet=quiet) as directory:
        model, loop = open_training(directory, chosen)
        say_targets(directory, chosen, loop, Bars(quiet=quiet))
        return run_checks(check_subject(directory, chosen, model, loop))


@on_timeline
def heal(
    run: Path | str,
    minutes: float = 30.0,
    *,
    data: Path | str | None = None,
    model: str = "smollm2-135m",
    name: str | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> RunDirectory:
    """Tries ways to reduce a run's forgetting for up to `minutes`, and decides again.

    Args:
        run: a trained run, or the folder of an adapter in PEFT format.
        minutes: total time limit of all attempts.
        data: for an imported adapter: task data, part of which is held out for testing.
        model: for an imported adapter: its base model.
        name: for an imported adapter: name of the run; None names it after the folder.
        quiet: show no progress bars.
        overrides: for an imported adapter: recipe values.

    Raises:
        RunError: the run is not trained, or it has no general suite to measure forgetting.
        UserError: the adapter cannot be read, or does not fit the model.
    """
    bars = Bars(quiet=quiet)
    if is_foreign(run, data):
        directory = adopt(run, data, model, name, overrides, bars)
    else:
        directory = RunDirectory.open(run)
        check_no_adapter_options(directory, {"data": data, "name": name, **overrides})
    check_can_heal(directory)
    if is_release_healed(directory):
        bars.say(f"{directory.path} needs no healing: it was released with 90% of the best gain")
        return directory
    with alone_in(directory):
        manifest = directory.manifest()
        recipe = recipe_of(manifest)
        then, recipe = recipe.heal.minutes, changed_recipe(recipe, {"heal.minutes": minutes})
        manifest.changes.append(
            {"key": "heal.minutes", "before": then, "after": minutes, "state": manifest.state}
        )
        manifest.recipe, manifest.origins = recipe.model_dump(mode="json"), dict(recipe.origins)
        manifest.state = "trained"
        discard_order(directory)
        discard_verdict(directory)
        directory.write_manifest(manifest)
    return evaluate(directory, quiet=quiet)


def report(run: RunDirectory | Path | str) -> Path:
    """Writes report.html and card.md of a run, and returns the path of the report."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    page = write_page(directory)
    write_card(directory)
    return page


def tokenizer_of(model: str) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model by name."""
    return load_tokenizer(resolve(model))


@on_timeline
def plan(
    recipe: Path | str | Recipe,
    *,
    device: str | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Plan:
    """Estimates the time, memory and disk space of a run from a few steps; nothing is saved."""
    chosen = resolve_recipe(recipe, overrides)
    if device == "cuda" and (source := configuration_of(chosen.model)):
        return _plan_configuration(chosen, source)
    with _temporary_run(chosen, quiet=quiet) as directory:
        if device is None or torch.cuda.is_available():  # the levels depend on the base's answers
            run_suites(directory, chosen, lambda: untrained_base(chosen), Bars(quiet=quiet))
        return make_plan(directory, chosen, device=device)


def _plan_configuration(recipe: Recipe, source: Source) -> Plan:
    """Plans a run of a model without weights; its rows are tokenized where there is a tokenizer."""
    if not has_tokenizer(source):
        dataset = load(recipe.data, recipe.seed, recipe.objective_settings.rows)
        rows = {name: len(getattr(dataset, name)) for name in ("train", "validation", "test")}
        return plan_configuration(recipe, source, rows, None)
    checked = prepare(recipe, source)
    rows = {name: len(checked.kept(name)) for name in checked.rendered}
    tokenizer = load_tokenizer(source, recipe.model_settings.stop_tokens)
    objective = OBJECTIVES[recipe.objective].from_recipe(recipe, tokenizer)
    longest = recipe.training.max_length or context_length(source)
    items = objective.items(checked.kept("train"), tokenizer, longest)
    return plan_configuration(recipe, source, rows, items)


@contextmanager
def _temporary_run(recipe: Recipe, *, quiet: bool) -> Iterator[RunDirectory]:
    """A run directory with the recipe's data, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        yield create_run(recipe.model_copy(update={"output": Path(folder)}), Bars(quiet=quiet))
