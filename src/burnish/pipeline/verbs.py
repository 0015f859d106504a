"""The verbs: each stage reads and writes the run directory; notebooks and the CLI call these."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from transformers import PreTrainedTokenizerBase

from burnish.certification.certify import certify_candidates, next_look, release_candidate
from burnish.certification.compare import compare as compare  # a verb of notebooks
from burnish.certification.ledger import LEVEL
from burnish.certification.power import power_headline
from burnish.certification.run_ledger import (
    budgets_of,
    check_budgets,
    fill_ledger,
    leakage_warnings,
    suite_prefix,
    suite_sizes,
)
from burnish.certification.search import ScaleSearch
from burnish.certification.verdict import Head, decide
from burnish.errors import ModelError, PreflightError, RecipeError, RunError
from burnish.evaluation.contamination import leaks
from burnish.evaluation.contamination_report import leakage_of, record_leakage
from burnish.evaluation.load_suite import load_suites
from burnish.evaluation.measure import (
    check_scorers,
    check_suites,
    check_tested,
    measure,
    target_task,
)
from burnish.evaluation.suite import Suite, split_suite
from burnish.evaluation.tasks import Task
from burnish.healing.heal import (
    check_can_heal,
    check_no_adapter_options,
    is_release_healed,
    try_remedies,
)
from burnish.models.from_run import Opened
from burnish.models.from_run import open_classifier as open_classifier  # a verb of notebooks
from burnish.models.from_run import open_run as open_run
from burnish.models.from_run import open_tuned as open_tuned  # a verb of notebooks
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import check_method, recipe_of
from burnish.models.load import load_tokenizer
from burnish.models.registry import resolve
from burnish.parity.compare import ensure_parity
from burnish.pipeline.adopt_adapter import TRAINED_ELSEWHERE, adopt, is_foreign
from burnish.pipeline.prepare import CheckedData, create_run, prepare
from burnish.pipeline.resume import (
    continue_run,
    discard_order,
    discard_verdict,
    warnings_about_changed_files,
)
from burnish.plan import Plan, make_plan
from burnish.preflight import MARKS, Check, Subject, raise_on_failure, run_checks
from burnish.progress import Bars, counts_to, on_timeline, phase
from burnish.recipe.schema import Recipe, changed_recipe, load_recipe, recipe_of_rows
from burnish.reports.html import write_page
from burnish.reports.model_card import write_card
from burnish.runs.candidates import Candidate
from burnish.runs.directory import Manifest, RunDirectory
from burnish.runs.lock import alone_in
from burnish.runs.times import timed_run
from burnish.training.build import check_workers, open_training, train_run
from burnish.training.checkpoint import saved_steps
from burnish.training.loop import Listener, Loop

# Files of a verdict; where one is missing, the verdict is reached again from the results.
_VERDICT_FILES = ("ledger.json", "verdict.json")


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
    chosen = _resolve_recipe(recipe, overrides)
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
def train(
    recipe: Path | str | Recipe,
    *,
    resume: bool = False,
    quiet: bool = False,
    on_event: Listener | None = None,
    **overrides: Any,
) -> RunDirectory:
    """Trains and saves the weights without evaluating; calls `on_event` with the loop's events."""
    chosen = _resolve_recipe(recipe, overrides)
    check_scorers(chosen)
    check_workers(chosen)
    check_method(chosen)
    suites = load_suites(chosen.evaluate.general or ())
    check_budgets(chosen, suites)  # report an unused budget now, not after training
    check_suites(chosen, suites)
    bars = Bars(quiet=quiet)
    directory = continue_run(chosen) if resume else None
    is_new = directory is None
    for sentence in warnings_about_changed_files(directory) if directory else ():
        bars.say(f"[yellow]warning[/] {escape(sentence)}")
    if directory is None:
        with phase("reading data"):
            directory = create_run(chosen, bars)
    with alone_in(directory), timed_run(directory):
        if directory.manifest().state != "training":
            return directory
        certs = [split_suite(suite)[1] for suite in suites]
        look = next_look(directory, certs)
        for cert in certs:
            power = power_headline(suite_sizes(cert), budgets_of(chosen).alone(cert.name), look)
            bars.say(escape(suite_prefix(cert, certs) + power))
        if is_new and suites:
            _warn_of_leaks(directory, chosen, suites, bars)
        try:
            train_run(directory, chosen, bars, _run_preflight(directory, chosen, bars), on_event)
        except PreflightError:
            shutil.rmtree(directory.path)  # nothing was trained, so a corrected recipe can start
            raise
        except (ModelError, RecipeError):
            if is_new and not saved_steps(directory.checkpoints):
                shutil.rmtree(directory.path)
            raise
    return directory


@counts_to("contamination check")
def _warn_of_leaks(
    directory: RunDirectory, recipe: Recipe, suites: Sequence[Suite], bars: Bars
) -> None:
    """Warns before the training of suite items that occur in the training rows."""
    rows = changed_recipe(recipe, {"replay.rows": 0})  # replayed rows are not written yet
    for finding in leaks(leakage_of(directory, rows, suites)):
        bars.say(f"[yellow]warning[/] {escape(finding.message)}")


@on_timeline
def preflight(recipe: Path | str | Recipe, *, quiet: bool = False, **overrides: Any) -> list[Check]:
    """Runs the preflight checks of a run without starting it; nothing is saved."""
    chosen = _resolve_recipe(recipe, overrides)
    with _temporary_run(chosen, quiet=quiet) as directory:
        model, loop = open_training(directory, chosen)
        return run_checks(_check_subject(directory, chosen, model, loop))


@on_timeline
def evaluate(run: RunDirectory | Path | str, *, quiet: bool = False) -> RunDirectory:
    """Evaluates the base model and the tuned model of a run on the same rows, and decides."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    manifest = directory.manifest()
    if manifest.state in ("created", "training"):
        raise RunError(
            f"the training of {directory.path} has not finished",
            "finish it with `burnish run RECIPE --resume`",
            code="run_unfinished",
            path=str(directory.path),
        )
    bars = Bars(quiet=quiet)
    missing = [file for file in _VERDICT_FILES if not (directory.path / file).exists()]
    has_verdict = manifest.state == "certified" and not missing
    with nullcontext() if has_verdict else timed_run(directory):
        if not has_verdict:
            with alone_in(directory):
                _evaluate_and_decide(directory, manifest, bars)
        parity = ensure_parity(directory)
    if parity is not None and parity.difference:
        bars.say(f"[red]parity[/] {escape(parity.sentence)}")
    return directory


def _evaluate_and_decide(directory: RunDirectory, manifest: Manifest, bars: Bars) -> None:
    """Evaluates a trained run and writes its ledger and its verdict."""
    recipe = recipe_of(manifest)
    with phase("loading models"):
        model = open_run(directory)
    halves = [split_suite(suite) for suite in load_suites(recipe.evaluate.general or ())]
    probes, certs = [probe for probe, _ in halves], [cert for _, cert in halves]
    tasks: list[Task] = [
        *(target_task(recipe, directory, model, name) for name in ("", *recipe.tasks)),
        *(task for cert in certs for task in cert.tasks),
    ]
    leakage = record_leakage(directory, recipe, [*probes, *certs])
    for finding in leaks(leakage):
        bars.say(f"[yellow]warning[/] {escape(finding.message)}")
    with phase("base answers"), model.base() as base:
        measure(directory, base, "base", tasks, bars)
    certificate = None
    search = None
    if isinstance(model, LanguageModel) and halves:
        with phase("base answers"):
            search = ScaleSearch(directory, recipe, model, probes, leakage, bars)
    head = _head_kind(model)
    if search is not None and search.counted_sections:
        del model  # the search may close it
        order = _find_candidates(search, manifest, bars)
        leakage = search.leakage = record_leakage(directory, recipe, [*probes, *certs])
        certificate, shown = certify_candidates(search, certs, order)
        with phase("tuned answers"), search.at(shown) as chosen:
            measure(directory, chosen, "tuned", tasks, bars)
        release_candidate(search, shown)
        manifest.training["chosen"] = shown.label
    else:
        with phase("tuned answers"):
            measure(directory, model, "tuned", tasks, bars)
    level = certificate.look.confidence if certificate else LEVEL
    rows = fill_ledger(directory, recipe, certs, leakage, level)
    directory.write_ledger(rows)
    verdict = decide(rows, recipe.budget.general, head, certificate)
    caveats = leakage_warnings(leakage, rows) + ([TRAINED_ELSEWHERE] if manifest.adopted else [])
    directory.write_verdict(replace(verdict, reasons=(*verdict.reasons, *caveats)))
    manifest.state = "certified"
    directory.write_manifest(manifest)


def _find_candidates(search: ScaleSearch, manifest: Manifest, bars: Bars) -> list[Candidate]:
    """Searches candidates and tries remedies; returns an order that was fixed before a stop."""
    directory, minutes = search.directory, search.recipe.heal.minutes
    if (directory.path / "frontier.json").exists():
        return search.resume(directory.frontier())
    search.run()
    if minutes:
        with phase("healing"):
            try_remedies(search, minutes, train, bars, can_retrain=not manifest.adopted)
    return []


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
        bars.say(f"{directory.path} needs no healing: it was released with 90 % of the best gain")
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


def _head_kind(model: Opened) -> Head | None:
    if isinstance(model, LanguageModel):
        return None
    with model.base() as base:
        return Head("an encoder" if model.body == "encoder" else "a decoder", base.name)


@on_timeline
def plan(
    recipe: Path | str | Recipe,
    *,
    device: str | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Plan:
    """Estimates the time, memory and disk space of a run from a few steps; nothing is saved."""
    chosen = _resolve_recipe(recipe, overrides)
    with _temporary_run(chosen, quiet=quiet) as directory:
        return make_plan(directory, chosen, device=device)


def _resolve_recipe(recipe: Path | str | Recipe, overrides: Mapping[str, Any]) -> Recipe:
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    return changed_recipe(recipe, overrides) if overrides else recipe


@contextmanager
def _temporary_run(recipe: Recipe, *, quiet: bool) -> Iterator[RunDirectory]:
    """A run directory with the recipe's data, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        yield create_run(recipe.model_copy(update={"output": Path(folder)}), Bars(quiet=quiet))


def _check_subject(directory: RunDirectory, recipe: Recipe, model: Opened, loop: Loop) -> Subject:
    longest = recipe.training.max_length or model.context_length
    return Subject(
        model, loop, directory.split("train"), longest, on_earlier=recipe.init_from is not None
    )


def _run_preflight(
    directory: RunDirectory, recipe: Recipe, bars: Bars
) -> Callable[[Opened, Loop], None]:
    """Returns a function that runs, logs and prints the preflight checks, and may stop the run."""

    def before_first_step(model: Opened, loop: Loop) -> None:
        if not recipe.training.preflight:
            return
        started = time.perf_counter()
        checks = run_checks(_check_subject(directory, recipe, model, loop))
        seconds = round(time.perf_counter() - started, 1)
        directory.log("preflight", seconds=seconds, checks=[asdict(check) for check in checks])
        for check in checks:
            bars.say(f"{MARKS[check.passed]} {check.name:26}[dim]{escape(check.figure)}[/]")
        raise_on_failure(checks)

    return before_first_step
