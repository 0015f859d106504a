"""Healing: where a model forgot too much, other ways to learn the same, one lever at a time.

Every attempt is a run of its own below the run's `heal/`, and is judged on PROBE and the validation
rows as the run's own checkpoints are. The levers are pulled in turn, those first that cost little
or mend much, until a candidate is expected to keep every budget with 90 % of the target gain, or
until the time is up. CERT is not looked at in between: all attempts together are one search.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.markup import escape

from burnish.certification.certify import release_candidate
from burnish.certification.search import ScaleSearch, checkpoint_steps
from burnish.conversation import Example
from burnish.errors import ModelError, RunError, UserError
from burnish.evaluation.load_suite import load_suites
from burnish.models.cache import cache_folder
from burnish.models.lineage import copy_earlier_run, link_or_copy, recipe_of
from burnish.progress import Bars
from burnish.recipe.certification import REPLAYED
from burnish.recipe.schema import HEADS, Recipe, changed_recipe
from burnish.runs.candidates import Candidate
from burnish.runs.directory import RunDirectory, remove_directory
from burnish.training.build import ANCHORED, TOLERATED
from burnish.training.replay import examples_of, replayed

# What of the target gain has to be kept; the issue is settled once a candidate inside keeps it.
_ENOUGH = 0.9
# Conversations to hold to that a step reads where nothing else is mended.
_EACH = 8

Settings = dict[str, Any]
Train = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Remedy:
    """One way to forget less.

    Attributes:
        name: as the attempt's folder is called.
        words: what it does.
        settings: what it changes in the recipe; None where it does not apply.
        share: of the run's training time that it is expected to take.
        on_prompts: whether it learns on general prompts alone, which the base wrote.
    """

    name: str
    words: str
    settings: Callable[[Recipe, "RemedyContext"], Settings | None]
    share: float = 1.0
    on_prompts: bool = False


@dataclass(frozen=True, slots=True)
class RemedyContext:
    """What a lever goes on from: the run, its learning rate, and whether it can be trained anew."""

    run: RunDirectory
    rate: float
    can_retrain: bool


def _continue_with_kl(recipe: Recipe, context: RemedyContext) -> Settings | None:
    """From the weights as they are, held to the base, with half the rate and half the rows."""
    if recipe.method not in ("lora", "qlora") or recipe.objective not in ANCHORED:
        return None
    return _continue_training(recipe, context) | {
        "training.epochs": recipe.training.epochs / 2 if context.can_retrain else 1.0,
        "replay.rows": REPLAYED,
        "replay.mode": "anchor",
        "replay.anchors_per_step": _EACH,
    }


def _retrain_with_kl(recipe: Recipe, context: RemedyContext) -> Settings | None:
    if not context.can_retrain or recipe.objective not in ANCHORED:
        return None
    held = recipe.replay.rows and recipe.replay.mode == "anchor"
    tolerated = recipe.replay.target_kl or TOLERATED * recipe.budget.general
    return {
        "replay.rows": max(recipe.replay.count, REPLAYED),
        "replay.mode": "anchor",
        "replay.target_kl": tolerated / 2 if held else tolerated,
    }


def _retrain_at_half_rate(recipe: Recipe, context: RemedyContext) -> Settings | None:
    return {"training.learning_rate": context.rate / 2} if context.can_retrain else None


def _train_uncertain_tokens(recipe: Recipe, context: RemedyContext) -> Settings | None:
    return _with_focus(recipe, context, "entropy")


def _train_likely_tokens(recipe: Recipe, context: RemedyContext) -> Settings | None:
    return _with_focus(recipe, context, "likely")


def _with_focus(recipe: Recipe, context: RemedyContext, focus: str) -> Settings | None:
    fits = context.can_retrain and recipe.objective == "sft" and recipe.sft.token_weighting != focus
    return {"sft.token_weighting": focus} if fits else None


def _retrain_with_replay(recipe: Recipe, context: RemedyContext) -> Settings | None:
    fits = context.can_retrain and recipe.objective == "sft" and not recipe.replay.rows
    return {"replay.rows": REPLAYED, "replay.mode": "text"} if fits else None


def _distill_own_answers(recipe: Recipe, context: RemedyContext) -> Settings | None:
    """Its own answers to general prompts, drawn to what the base would say (GKD, reverse KL)."""
    if recipe.method not in ("lora", "qlora") or recipe.tasks:
        return None
    return _continue_training(recipe, context) | {
        "objective": "distill",
        "distill.on_policy": True,
        "distill.kl_direction": "reverse",
        "distill.max_new_tokens": 40,
        "replay.rows": 0,
        "training.epochs": 2.0,
    }


def _continue_training(recipe: Recipe, context: RemedyContext) -> Settings:
    """From the run's last weights, which learn on at half the rate."""
    return {
        "init_from": str(context.run.path),
        "init": "continue",
        "training.learning_rate": context.rate / 2,
    }


# Those that bench/forgetting.py found to keep most come first.
REMEDIES = (
    Remedy(
        "continue", "goes on from the last checkpoint, held to the base", _continue_with_kl, 0.8
    ),
    Remedy("anchor", "learns anew, held to the base on what it replays", _retrain_with_kl, 1.4),
    Remedy(
        "replay",
        "learns beside what it replays: own rows, or what the base wrote",
        _retrain_with_replay,
        1.5,
    ),
    Remedy("rate", "learns anew at half the rate", _retrain_at_half_rate),
    Remedy("entropy", "learns tokens by how unsure the model is (EAFT)", _train_uncertain_tokens),
    Remedy("likely", "learns the tokens that the base finds likely (STM)", _train_likely_tokens),
    Remedy(
        "on-policy",
        "is drawn to the base on its own answers",
        _distill_own_answers,
        on_prompts=True,
    ),
)
_SLOPES = (0.5, 1.0)
# One in so many prompts chooses the checkpoint.
_HELD = 5
_OWN_ROWS = (
    "name general rows of your own as replay.data: in the recipe of a new run, or for an adapter "
    "as a setting of burnish.heal"
)
# Where the run's own training is not known: seconds, and the rate of most LoRA recipes.
_UNKNOWN, _RATE = 300.0, 2e-4


def is_healed(search: ScaleSearch) -> bool:
    """Whether a candidate expected inside has 90 % of the greatest gain that was seen."""
    best = search.best_within_budget()
    return best is not None and _keeps_most_gain(best, search.candidates.values())


def is_release_healed(run: RunDirectory) -> bool:
    """Whether its certificate was asked, and let pass a candidate that has such a gain."""
    if run.manifest().state != "certified" or not (run.path / "frontier.json").exists():
        return False
    frontier = run.frontier()
    if frontier.released is None:
        return False
    return _keeps_most_gain(frontier.candidates[frontier.released], frontier.candidates)


def _keeps_most_gain(one: Candidate, of: Iterable[Candidate]) -> bool:
    greatest = max((other.worth for other in of if other.worth is not None), default=0.0)
    return (one.worth or 0.0) >= _ENOUGH * greatest > 0


def check_no_adapter_options(run: RunDirectory, given: Mapping[str, Any]) -> None:
    """A run brings its rows and its name along; RunError where something else is given."""
    if named := [name for name, value in given.items() if value is not None]:
        raise RunError(
            f"{run.path} is a run with {named[0]} of its own, but {given[named[0]]} is given",
            f"leave {named[0]} out: it is for an adapter that another tool trained",
            code="setting_not_for_run",
            path=str(run.path),
            key=named[0],
            value=str(given[named[0]]),
        )


def check_can_heal(run: RunDirectory) -> None:
    """RunError where it is not trained yet, or nothing is there to judge or to choose from.

    It comes before the verdict is forgotten, which could not be reached again.
    """
    manifest = run.manifest()
    recipe = recipe_of(manifest)
    if manifest.state in ("created", "training"):
        raise RunError(
            f"{run.path} is not trained to the end",
            "finish it with `burnish run RECIPE --resume`",
            code="run_unfinished",
            path=str(run.path),
            state=manifest.state,
        )
    if not recipe.evaluate.general or recipe.objective in HEADS:
        raise RunError(
            f"{run.path} has no general suite, so nothing says what it forgot",
            "set evaluate.general, and an objective whose model writes text",
            code="no_general_suite",
            path=str(run.path),
            objective=recipe.objective,
        )
    load_suites(recipe.evaluate.general)
    checkpoint_steps(run)


def try_remedies(
    search: ScaleSearch, minutes: float, train: Train, bars: Bars, *, can_retrain: bool = True
) -> None:
    """Pulls levers until the search holds a candidate that is well, or the time is up.

    Args:
        search: of the run; the attempts' candidates are added to it.
        minutes: for all attempts together; one that is not expected to fit is not begun.
        train: goes on with a run that was begun, and returns it trained.
        bars: progress.
        anew: whether the run can be trained again, as an adapter of another tool cannot.
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
            bars.say(f"[dim]no time is left for {name}, which {remedy.words}[/]")
            continue
        bars.say(f"[bold]healing[/] {name}: {remedy.words}")
        started = time.monotonic()
        try:
            attempt = _attempt_recipe(recipe, settings, directory, name)
            prompts = written.prompts(remedy, attempt)
            _train_attempt(search, attempt, prompts, train, bars)
        except (UserError, torch.OutOfMemoryError) as error:
            bars.say(f"[yellow]{name} cannot be had[/]: {escape(str(error))}")
            _log_attempt(search, name, remedy.words, started, failed=error)
            continue
        _log_attempt(search, name, remedy.words, started)


def _try_layer_slopes(search: ScaleSearch, ends: float, bars: Bars) -> None:
    """The lever that costs no training: less of the adapter in the first layers."""
    if search.recipe.method not in ("lora", "qlora"):
        return
    for slope in _SLOPES:
        if is_healed(search) or time.monotonic() + search.seconds_per_candidate > ends:
            break
        words = f"less of the adapter in the first layers ({slope:g})"
        bars.say(f"[bold]healing[/] with {words}")
        started = time.monotonic()
        search.with_layer_slope(slope)
        _log_attempt(search, f"slope-{slope:g}", words, started)


def _is_trained(run: RunDirectory, attempt: str) -> bool:
    """By an earlier heal, whose attempts are looked at again."""
    path = run.path / "heal" / attempt
    return path.exists() and RunDirectory.open(path).manifest().state == "trained"


class _BaseGenerations:
    """What the base writes for levers; where it cannot, no other lever asks it again."""

    def __init__(self, search: ScaleSearch) -> None:
        self._search = search
        self._failed: ModelError | None = None

    def prompts(self, remedy: Remedy, recipe: Recipe) -> list[Example] | None:
        """What the attempt learns on, if that is general prompts; what it replays is written too.

        Raises:
            ModelError: the base wrote too little for this lever, or for one before it.
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
    search: ScaleSearch, attempt: str, words: str, started: float, failed: Exception | None = None
) -> None:
    """The attempt's line among the run's events, which the report tells as a story."""
    best = search.best_within_budget()
    search.directory.log(
        "heal",
        attempt=attempt,
        words=words,
        seconds=round(time.monotonic() - started, 1),
        well=is_healed(search),
        best=best.label if best else None,
        failed=None if failed is None else str(failed),
        code=getattr(failed, "code", None),
    )


def _attempt_recipe(recipe: Recipe, settings: Settings, run: RunDirectory, name: str) -> Recipe:
    """The run's recipe with what the lever changes; nothing of it is judged by itself."""
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
    """A run on the very rows of the first one, whatever became of its files since."""
    path = recipe.output / recipe.name
    if path.exists():  # a heal that was interrupted
        return RunDirectory.open(path)
    hidden = path.with_name(f".{path.name}.new")
    remove_directory(hidden)
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
    made = RunDirectory.create(hidden, manifest)
    if prompts is None:
        shutil.copytree(run.path / "data", made.path / "data", copy_function=link_or_copy)
    else:
        held = max(1, len(prompts) // _HELD)
        for split, rows in (("train", prompts[held:]), ("validation", prompts[:held])):
            made.write_split(split, rows)
        made.write_split("test", ())
        made.write_findings(())
    manifest.lineage = copy_earlier_run(made, recipe)
    manifest.state = "training"
    made.write_manifest(manifest)
    hidden.rename(path)  # whole or absent
    return RunDirectory.open(path)
