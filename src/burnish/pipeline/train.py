"""The verb `train`: creates a run, checks it, trains it and saves the weights."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from burnish.certification.certify import next_look
from burnish.certification.power import power_headline
from burnish.certification.run_ledger import budgets_of, check_budgets, suite_prefix, suite_sizes
from burnish.errors import DataError, ModelError, PreflightError, RecipeError
from burnish.evaluation.contamination import leaks
from burnish.evaluation.contamination_report import leakage_of
from burnish.evaluation.load_suite import load_suites
from burnish.evaluation.measure import check_scorers, check_suites
from burnish.evaluation.run_suites import run_suites, untrained_base
from burnish.evaluation.suite import Suite, split_suite
from burnish.models.checkpointing import checkpoint_activations
from burnish.models.from_run import Opened, open_tuned
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import check_method, with_recorded_thinking
from burnish.models.load import pick_device
from burnish.models.lora_targets import recipe_targets
from burnish.parity.compare import record_reference, save_reference
from burnish.pipeline.prepare import create_run
from burnish.pipeline.resume import continue_run, warnings_about_changed_files
from burnish.plan import checkpoints_by_need
from burnish.preflight import MARKS, Subject, raise_on_failure, run_checks
from burnish.progress import Bars, counts_to, on_timeline, phase
from burnish.recipe.schema import Recipe, changed_recipe, resolve_recipe
from burnish.runs.atomic import new_folder
from burnish.runs.directory import RunDirectory
from burnish.runs.levels import level_sentences
from burnish.runs.lock import alone_in
from burnish.runs.times import log_times, timed_run
from burnish.training.build import open_training
from burnish.training.checkpoint import Progress, copy_weights, saved_steps
from burnish.training.fsdp import Sharded
from burnish.training.launch import check_workers, gathered
from burnish.training.loop import Listener, Loop
from burnish.training.lr_range_test import Screen, screen


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
    chosen = resolve_recipe(recipe, overrides)
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
    chosen = with_recorded_thinking(chosen, directory.manifest())
    with alone_in(directory), timed_run(directory):
        if directory.manifest().state != "training":
            return directory
        suites = _chosen_suites(directory, chosen, bars)
        certs = [split_suite(suite)[1] for suite in suites]
        look = next_look(directory, certs)
        for cert in certs:
            power = power_headline(suite_sizes(cert), budgets_of(chosen).alone(cert.name), look)
            bars.say(escape(suite_prefix(cert, certs) + power))
        if is_new and suites:
            _warn_of_leaks(directory, chosen, suites, bars)
        try:
            _train_run(directory, chosen, bars, on_event)
        except PreflightError:
            shutil.rmtree(directory.path)  # nothing was trained, so a corrected recipe can start
            raise
        except (ModelError, RecipeError):
            if is_new and not saved_steps(directory.checkpoints):
                shutil.rmtree(directory.path)
            raise
    return directory


def _chosen_suites(directory: RunDirectory, recipe: Recipe, bars: Bars) -> list[Suite]:
    """The run's suites; levels are chosen on the base model before anything is trained.

    Raises:
        DataError: no level suits the base model; the new run is removed.
    """
    try:
        suites = run_suites(directory, recipe, lambda: untrained_base(recipe), bars)
    except DataError:
        if not saved_steps(directory.checkpoints):
            shutil.rmtree(directory.path)
        raise
    for sentence in level_sentences(directory.levels()):
        bars.say(escape(sentence))
    return suites


@counts_to("contamination check")
def _warn_of_leaks(
    directory: RunDirectory, recipe: Recipe, suites: Sequence[Suite], bars: Bars
) -> None:
    """Warns before the training of suite items that occur in the training rows."""
    rows = changed_recipe(recipe, {"replay.rows": 0})  # replayed rows are not written yet
    for finding in leaks(leakage_of(directory, rows, suites)):
        bars.say(f"[yellow]warning[/] {escape(finding.message)}")


def _train_run(
    directory: RunDirectory, recipe: Recipe, bars: Bars, on_event: Listener | None
) -> None:
    """Trains a run to the end, from its last checkpoint if there is one, and saves the weights.

    An error that `on_event` raises stops the training between two steps.
    """
    bars.say(f"{escape(recipe.model)} on {pick_device(recipe.device)}")
    model, loop = open_training(directory, recipe)
    _checkpoint_by_need(directory, recipe, loop, bars)
    if not saved_steps(directory.checkpoints):
        say_targets(directory, recipe, loop, bars)
        if recipe.replay.rows:
            directory.log("replay", rows=sum(1 for _ in directory.stream("replay")))
        if recipe.training.preflight:
            _run_preflight(check_subject(directory, recipe, model, loop), directory, bars)
    if recipe.training.learning_rate == "auto":
        rate = _tested_rate(directory, recipe, loop, bars)
        loop.settings = replace(loop.settings, learning_rate=rate)
    progress = _run_loop(directory, recipe, loop, bars, on_event)
    _save_weights(directory, recipe, loop)
    if isinstance(model, LanguageModel):  # a search may choose another one, and starts again
        with phase("parity"):
            tuned = open_tuned(directory) if recipe.training.fsdp else _tuned(model, loop)
            save_reference(directory, record_reference(directory, tuned))
    manifest = directory.manifest()
    manifest.training |= {
        "learning_rate": loop.settings.learning_rate,
        "steps": progress.step,
        "tokens": progress.tokens,
        "best_step": progress.best_step,
        "stopped_early": progress.stopped,
        "trainable_parameters": sum(p.numel() for p in loop.model.parameters() if p.requires_grad),
        "device": str(pick_device(recipe.device)),
    }
    manifest.state = "trained"
    directory.write_manifest(manifest)


def _checkpoint_by_need(directory: RunDirectory, recipe: Recipe, loop: Loop, bars: Bars) -> None:
    """Switches activation checkpointing on where the run needs it; its other workers read that."""
    if not checkpoints_by_need(recipe, loop):
        return
    checkpoint_activations(loop.network)
    bars.say("[dim]activations are recomputed in the backward pass, which saves memory[/]")
    manifest = directory.manifest()
    manifest.training["activation_checkpointing"] = True
    directory.write_manifest(manifest)


def _save_weights(directory: RunDirectory, recipe: Recipe, loop: Loop) -> None:
    """Copies the weights of the best checkpoint into the run; a reader never sees half of them."""
    name = "adapter" if recipe.method_traits.is_adapter else "model"
    with new_folder(directory.path / name) as new:
        step = loop.progress.best_step or loop.progress.step
        copy_weights(directory.checkpoints / f"step-{step}", new)
        if recipe.objective_settings.head is not None:
            loop.network.model.config.save_pretrained(str(new))  # it names the labels


def _tuned(model: LanguageModel, loop: Loop) -> LanguageModel:
    """The model as it was just trained: adapters are wrapped around the one that was opened."""
    return LanguageModel(
        loop.model, model.tokenizer, name=model.name, source_sha256=model.source_sha256
    )


def check_subject(directory: RunDirectory, recipe: Recipe, model: Opened, loop: Loop) -> Subject:
    """What the preflight checks examine: the model, its loop and the training rows."""
    longest = recipe.training.max_length or model.context_length
    return Subject(
        model, loop, directory.split("train"), longest, on_earlier=recipe.init_from is not None
    )


def say_targets(directory: RunDirectory, recipe: Recipe, loop: Loop, bars: Bars) -> None:
    """Logs the weights that LoRA adapts; prints them unless they are simply all linear maps."""
    if (targets := recipe_targets(recipe, loop.network.model)) is None:
        return
    directory.log("lora_targets", **asdict(targets))
    if targets.notable:
        bars.say(f"[dim]{escape(targets.sentence())}[/]")


def _run_preflight(subject: Subject, directory: RunDirectory, bars: Bars) -> None:
    """Runs, logs and prints the preflight checks.

    Raises:
        PreflightError: a check failed.
    """
    started = time.perf_counter()
    checks = run_checks(subject)
    seconds = round(time.perf_counter() - started, 1)
    directory.log("preflight", seconds=seconds, checks=[asdict(check) for check in checks])
    for check in checks:
        bars.say(f"{MARKS[check.passed]} {check.name:26}[dim]{escape(check.figure)}[/]")
    raise_on_failure(checks)


@counts_to("learning rate test")
def _tested_rate(directory: RunDirectory, recipe: Recipe, loop: Loop, bars: Bars) -> float:
    """The learning rate that the range test chose; a resumed run reads it from its manifest."""
    manifest = directory.manifest()
    if "screen" in manifest.training:
        return float(manifest.training["screen"]["chosen"])
    started = time.perf_counter()
    if recipe.training.fsdp:
        rule = loop.settings.learning_rate
        found = Screen(rule, rule, reason="no process alone has room for a trial")
    else:
        found = screen(loop)
    manifest.training["screen"] = found.as_dict()
    directory.write_manifest(manifest)
    seconds = round(time.perf_counter() - started, 1)
    directory.log("screen", seconds=seconds, **found.as_dict())
    bars.say(found.sentence())
    return found.chosen


def _run_loop(
    directory: RunDirectory, recipe: Recipe, loop: Loop, bars: Bars, on_event: Listener | None
) -> Progress:
    """Runs the loop to its end and writes its events to the run's log."""
    with phase("training"), bars.training(loop.batches.steps) as show:

        def listen(event: str, values: dict[str, Any]) -> None:
            if event == "resumed":
                directory.drop_events_after(values["step"])
                if not values["step"] and not values["damaged"]:
                    return
                _warn_of_damage(bars, values)
            directory.log(event, **values)
            if event == "checkpoint":
                log_times(directory)
            show(event, values)
            if on_event:
                on_event(event, values)

        loop.listen = listen
        with gathered(recipe.training.workers, directory.path, loop.network.device) as team:
            loop.team = Sharded(team.rank, team.size) if recipe.training.fsdp else team
            return loop.run(resume=True)


def _warn_of_damage(bars: Bars, resumed: dict[str, Any]) -> None:
    step = resumed["step"]
    then = f"the run continues from step-{step}" if step else "the training starts again"
    for name, wrong in resumed["damaged"].items():
        bars.say(f"[yellow]warning[/] checkpoint {name} is damaged ({wrong}); {then}")
