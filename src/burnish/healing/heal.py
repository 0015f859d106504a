"""Healing: remedies for a model that forgot too much, tried one at a time.

Every attempt is a run of its own in the run's folder `heal/`. It is measured on PROBE and on the
validation rows, as the run's own checkpoints are. Remedies that cost little or help most come
first. Healing stops when a candidate is expected to stay within every budget with 90% of the
target gain, or when the time is up. CERT is not used in between: all attempts are one search.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from rich.markup import escape

from burnish.certification.certify import release_candidate
from burnish.certification.search import ScaleSearch, checkpoint_steps
from burnish.conversation import Example
from burnish.errors import ModelError, RunError, UserError
from burnish.evaluation.load_suite import load_suites
from burnish.healing.remedies import REMEDIES, Remedy, RemedyContext, Settings
from burnish.models.cache import cache_folder
from burnish.models.lineage import copy_earlier_run, link_or_copy, recipe_of
from burnish.progress import Bars
from burnish.recipe.certification import REPLAYED
from burnish.recipe.schema import Recipe, changed_recipe
from burnish.runs.atomic import new_folder
from burnish.runs.candidates import Candidate
from burnish.runs.directory import RunDirectory
from burnish.training.replay import examples_of, replayed

# The share of the largest target gain that a healed model has.
_GAIN_TO_KEEP = 0.9
Train = Callable[..., Any]


_SLOPES = (0.5, 1.0)
# One of so many prompts goes into the validation set, which chooses the checkpoint.
_PROMPTS_PER_VALIDATION_ROW = 5
_OWN_ROWS = (
    "set replay.data to a file of general conversations, in the recipe of a new run or, for an "
    "imported adapter, as an argument of burnish.heal"
)
# Where the run's training was not recorded: seconds, and the learning rate of most LoRA recipes.
_UNKNOWN, _RATE = 300.0, 2e-4


def is_healed(search: ScaleSearch) -> bool:
    """Whether a candidate expected within budget has 90% of the largest measured gain."""
    best = search.best_within_budget()
    return best is not None and _keeps_most_gain(best, search.candidates.values())


def is_release_healed(run: RunDirectory) -> bool:
    """Whether the run released a certified candidate with 90% of the largest measured gain."""
    if run.manifest().state != "certified" or not (run.path / "frontier.json").exists():
        return False
    frontier = run.frontier()
    if frontier.released is None:
        return False
    return _keeps_most_gain(frontier.candidates[frontier.released], frontier.candidates)


def _keeps_most_gain(one: Candidate, of: Iterable[Candidate]) -> bool:
    greatest = max((other.worth for other in of if other.worth is not None), default=0.0)
    return (one.worth or 0.0) >= _GAIN_TO_KEEP * greatest > 0


def check_no_adapter_options(run: RunDirectory, given: Mapping[str, Any]) -> None:
    """Refuses options that are only for imported adapters.

    Raises:
        RunError: an option is set, but the run has its own value for it.
    """
    if named := [name for name, value in given.items() if value is not None]:
        raise RunError(
            f"{named[0]} is {given[named[0]]}, but the run {run.path} has its own {named[0]}",
            f"leave {named[0]} out, which is only for adapters from other tools",
            code="setting_not_for_run",
            path=str(run.path),
            key=named[0],
            value=str(given[named[0]]),
        )


def check_can_heal(run: RunDirectory) -> None:
    """Checks that a run can be healed, before its verdict is discarded.

    Raises:
        RunError: the training has not finished, the run has no general suite, or its checkpoints
            were deleted.
    """
    manifest = run.manifest()
    recipe = recipe_of(manifest)
    if manifest.state in ("created", "training"):
        raise RunError(
            f"the training of {run.path} has not finished",
            "finish it with `burnish run RECIPE --resume`",
            code="run_unfinished",
            path=str(run.path),
            state=manifest.state,
        )
    if not recipe.evaluate.general or not recipe.objective_settings.writes_text:
        raise RunError(
            f"{run.path} has no general suite, so what it forgot cannot be measured",
            "set evaluate.general, and an objective whose model generates text",
            code="no_general_suite",
            path=str(run.path),
            objective=recipe.objective,
        )
    load_suites(recipe.evaluate.general)
    checkpoint_steps(run)


def try_remedies(
    search: ScaleSearch, minutes: float, train: Train, bars: Bars, *, can_retrain: bool = True
) -> None:
    """Tries remedies until a candidate is healed or the time is up.

    Args:
        search: the search of the run; candidates of the attempts are added to it.
        minutes: total time for all attempts; an attempt that is not expected to fit is skipped.
        train: continues a run that was created, and returns it trained.
        bars: where progress is shown.
        can_retrain: whether the run can be trained again; an imported adapter cannot.
    """
    directory, recipe = search.directory, search.recipe
    ends = time.monotonic() + 60 * minutes
    if is_healed(search):
        return
    # The remedies continue from the unscaled weights, whatever part of them was released.
    release_candidate(search, search.unscaled())
    _try_layer_slopes(search, ends, bars)
    manifest = directory.manifest()
    training = float(manifest.times.get("training", _UNKNOWN))
    context = RemedyContext(
        directory, float(manifest.training.get("learning_rate", _RATE)), can_retrain
    )
    written = _BaseGenerations(search)
    for number, remedy in enumerate(REMEDIES, 1):
        name = f"{number}-{remedy.name}"
        if is_healed(search):
            break
        settings = remedy.settings(recipe, context)
        if settings is None:
            continue
        needed = 0.0 if _is_trained(directory, name) else remedy.share * training
        if time.monotonic() + needed + search.seconds_per_candidate > ends:
            bars.say(f"[dim]skipped {name} ({remedy.description}): not enough time left[/]")
            continue
        bars.say(f"[bold]healing[/] {name}: {remedy.description}")
        started = time.monotonic()
        try:
            attempt = _attempt_recipe(recipe, settings, directory, name)
            prompts = written.prompts(remedy, attempt)
            _train_attempt(search, attempt, prompts, train, bars)
        except (UserError, torch.OutOfMemoryError) as error:
            bars.say(f"[yellow]{name} failed[/]: {escape(str(error))}")
            _log_attempt(search, name, remedy.description, started, failed=error)
            continue
        _log_attempt(search, name, remedy.description, started)


def _try_layer_slopes(search: ScaleSearch, ends: float, bars: Bars) -> None:
    """The remedy without training: a smaller adapter scale in the first layers."""
    if not search.recipe.method_traits.is_lora:
        return
    for slope in _SLOPES:
        if is_healed(search) or time.monotonic() + search.seconds_per_candidate > ends:
            break
        description = f"scales the adapter down in the first layers (slope {slope:g})"
        bars.say(f"[bold]healing[/] {description}")
        started = time.monotonic()
        search.with_layer_slope(slope)
        _log_attempt(search, f"slope-{slope:g}", description, started)


def _is_trained(run: RunDirectory, attempt: str) -> bool:
    """Whether an earlier `burnish heal` trained this attempt, which is then measured again."""
    path = run.path / "heal" / attempt
    return path.exists() and RunDirectory.open(path).manifest().state == "trained"


class _BaseGenerations:
    """Conversations that the base model writes for remedies, until one call fails."""

    def __init__(self, search: ScaleSearch) -> None:
        self._search = search
        self._failed: ModelError | None = None

    def prompts(self, remedy: Remedy, recipe: Recipe) -> list[Example] | None:
        """Returns the prompts that the attempt trains on, if it trains on prompts; writes the
        conversations that it replays.

        Raises:
            ModelError: the base wrote too few for this remedy, or for an earlier one.
        """
        replays = recipe.replay.count and recipe.replay.data is None
        if not remedy.on_prompts and (not replays or recipe.replay.rows == "auto"):
            return None
        if self._failed is not None:
            raise self._failed
        count = REPLAYED if remedy.on_prompts else recipe.replay.count
        try:
            with self._search.model.base() as base:
                rows = replayed(base, count, recipe.seed, cache_folder() / "replay")
        except ModelError as error:
            self._failed = ModelError(error.seen, _OWN_ROWS, code=error.code, **error.fields)
            raise self._failed from error
        return list(examples_of(rows)) if remedy.on_prompts else None


def _train_attempt(
    search: ScaleSearch, recipe: Recipe, prompts: list[Example] | None, train: Train, bars: Bars
) -> None:
    attempt = _create_attempt(search.directory, recipe, prompts)
    with search.model_unloaded():
        train(recipe_of(attempt.manifest()), resume=True, quiet=bars.console.quiet)
    search.run(recipe.name, attempt)


def _log_attempt(
    search: ScaleSearch,
    attempt: str,
    description: str,
    started: float,
    failed: Exception | None = None,
) -> None:
    """Adds the attempt to the run's events, from which the report lists all attempts."""
    best = search.best_within_budget()
    search.directory.log(
        "heal",
        attempt=attempt,
        description=description,
        seconds=round(time.monotonic() - started, 1),
        healed=is_healed(search),
        best=best.label if best else None,
        failed=None if failed is None else str(failed),
        code=getattr(failed, "code", None),
    )


def _attempt_recipe(recipe: Recipe, settings: Settings, run: RunDirectory, name: str) -> Recipe:
    """The run's recipe with the remedy's changes, without a preflight or a suite of its own."""
    own = {
        "name": name,
        "output": str(run.path / "heal"),
        "training.preflight": False,
        "evaluate.general": None,
    }
    return changed_recipe(recipe, own | settings)


def _create_attempt(
    run: RunDirectory, recipe: Recipe, prompts: list[Example] | None
) -> RunDirectory:
    """A run with the saved rows of the first one, even if the data files have changed since."""
    path = recipe.output / recipe.name
    if path.exists():  # a heal that was interrupted
        return RunDirectory.open(path)
    manifest = replace(
        run.manifest(),
        name=recipe.name,
        state="created",
        recipe=recipe.model_dump(mode="json"),
        origins=dict(recipe.origins),
        times={},
        training={},
        lineage={},
        changes=[],
    )
    with new_folder(path) as new:
        made = RunDirectory.create(new, manifest)
        if prompts is None:
            shutil.copytree(run.path / "data", made.path / "data", copy_function=link_or_copy)
        else:
            count = max(1, len(prompts) // _PROMPTS_PER_VALIDATION_ROW)
            for split, rows in (("train", prompts[count:]), ("validation", prompts[:count])):
                made.write_split(split, rows)
            made.write_split("test", ())
            made.write_findings(())
        manifest.lineage = copy_earlier_run(made, recipe)
        manifest.state = "training"
        made.write_manifest(manifest)
    return RunDirectory.open(path)
