"""One run's training: the recipe builds the model, the items, the objective and the loop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.markup import escape

from burnish.errors import ModelError, RecipeError
from burnish.models.branches import Network
from burnish.models.cache import cache_folder
from burnish.models.classifier import Classifier
from burnish.models.from_run import Opened, open_start, open_tuned
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import trainable_model
from burnish.models.load import pick_device
from burnish.parity.compare import record_reference, save_reference
from burnish.progress import Bars, counts_to, phase
from burnish.recipe.objectives import SETTINGS
from burnish.recipe.schema import Recipe
from burnish.runs.atomic import new_folder
from burnish.runs.directory import RunDirectory
from burnish.runs.times import log_times
from burnish.training.anchor import Anchor, Anchored, anchors
from burnish.training.batches import Batches, temperature_shares
from burnish.training.checkpoint import copy_weights, saved_steps
from burnish.training.fsdp import Sharded
from burnish.training.launch import gathered
from burnish.training.loop import Listener, Loop, Settings
from burnish.training.lr_range_test import Screen, screen
from burnish.training.objectives import OBJECTIVES
from burnish.training.objectives.base import Objective
from burnish.training.replay import Own, Replayed, examples_of, own_rows, replayed
from burnish.training.schedule import FRESH_HEAD_TIMES, automatic_rate

# Nats a token for each point that the suite may fall. With SmolLM2-135M on support-routing the mean
# of what was held to 0.03 nats fell by nothing that could be seen, at 0.14 nats by 2.5 points.
TOLERATED = 0.015


@counts_to("loading models")
def open_training(directory: RunDirectory, recipe: Recipe) -> tuple[Opened, Loop]:
    """The model and its loop before the first step; nothing listens yet."""
    model = open_start(directory, recipe)
    replay = _replay(directory, recipe, model)
    torch.manual_seed(recipe.seed)
    module = trainable_model(directory, recipe, model.module, getattr(model, "fresh", ()))
    return model, _loop(directory, recipe, model, module, replay)


def train_run(
    directory: RunDirectory,
    recipe: Recipe,
    bars: Bars,
    before_first_step: Callable[[Opened, Loop], None] = lambda *_: None,
    on_event: Listener | None = None,
) -> None:
    """Trains a run to the end, from its last checkpoint where there is one.

    `before_first_step` gets the model and its loop if no step was taken yet; `on_event` gets each
    event of the loop. An error that either raises stops the training between two steps.
    """
    manifest = directory.manifest()
    bars.say(f"{escape(recipe.model)} on {pick_device(recipe.device)}")
    model, loop = open_training(directory, recipe)
    module = loop.model
    if not saved_steps(directory.checkpoints):
        if recipe.replay.rows:
            directory.log("replay", rows=sum(1 for _ in directory.stream("replay")))
        before_first_step(model, loop)
    if recipe.training.learning_rate == "auto":
        manifest.training["screen"] = found = _screened(directory, recipe, loop, bars)
        loop.settings = replace(loop.settings, learning_rate=found["chosen"])
    with phase("training"), bars.training(loop.batches.steps) as show:

        def listen(event: str, values: dict[str, Any]) -> None:
            if event == "resumed":
                directory.drop_events_after(values["step"])
                if not values["step"] and not values["damaged"]:
                    return
                _say_damaged(bars, values)
            directory.log(event, **values)
            if event == "checkpoint":
                log_times(directory)
            show(event, values)
            if on_event:
                on_event(event, values)

        loop.listen = listen
        with gathered(recipe.training.workers, directory.path, loop.network.device) as team:
            loop.team = Sharded(team.rank, team.size) if recipe.training.fsdp else team
            progress = loop.run(resume=True)
    _keep(directory, loop, recipe)
    if isinstance(model, LanguageModel):  # a search may choose another one, and starts again
        with phase("parity"):
            learnt = open_tuned(directory) if recipe.training.fsdp else _learnt(model, module)
            save_reference(directory, record_reference(directory, learnt))
    manifest.training |= {
        "learning_rate": loop.settings.learning_rate,
        "steps": progress.step,
        "tokens": progress.tokens,
        "best_step": progress.best_step,
        "stopped_early": progress.stopped,
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "device": str(pick_device(recipe.device)),
    }
    manifest.state = "trained"
    directory.write_manifest(manifest)


def _learnt(model: LanguageModel, module: Any) -> LanguageModel:
    """The model as it was just trained: adapters are wrapped around the one that was opened."""
    return LanguageModel(
        module, model.tokenizer, name=model.name, source_sha256=model.source_sha256
    )


@counts_to("learning rate test")
def _screened(directory: RunDirectory, recipe: Recipe, loop: Loop, bars: Bars) -> dict[str, Any]:
    """The screen of this run; its manifest keeps it, so that a resumed run takes the same rate."""
    manifest = directory.manifest()
    if "screen" in manifest.training:
        return dict(manifest.training["screen"])
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
    return found.as_dict()


def _say_damaged(bars: Bars, resumed: dict[str, Any]) -> None:
    step = resumed["step"]
    goes_on = f"going on from step-{step}" if step else "starting again, which gives the same"
    for name, wrong in resumed["damaged"].items():
        bars.say(f"[yellow]warning[/] checkpoint {name} is damaged ({wrong}), {goes_on}")


def check_workers(recipe: Recipe) -> None:
    """Whether several processes can share the recipe's batches and still learn what one would.

    Raises:
        RecipeError: they cannot.
    """
    objective, workers = OBJECTIVES[recipe.objective], recipe.training.workers
    collects = objective.collect is not Objective.collect
    if workers > 1 and (collects or not objective.additive):
        raise RecipeError(
            f"training.workers is {workers}, but objective {recipe.objective} "
            + ("collects what it learns" if collects else "looks at a batch as a whole"),
            "set training.workers to 1",
            code="objective_collects" if collects else "objective_not_additive",
            key="training.workers",
            value=workers,
            objective=recipe.objective,
        )
    if recipe.training.fsdp:
        _check_sharded(recipe)


def _check_sharded(recipe: Recipe) -> None:
    """Only whole weights are kept in parts, and only whole passes keep the processes in step."""
    value: Any
    if recipe.training.workers == 1:
        key, value, seen = "training.workers", 1, "training.workers is 1"
        remedy = "set it to the number of GPUs"
    elif recipe.method_traits.four_bit:
        key, value, seen = "method", recipe.method, "4-bit weights cannot be kept in parts"
        remedy = "set method to lora"
    elif not recipe.objective_settings.can_shard:
        able = [name for name, settings in SETTINGS.items() if settings.can_shard]
        key, value = "objective", recipe.objective
        seen = f"objective {value} takes passes of its own through the model"
        remedy = f"leave it out, or set objective to one of {', '.join(able)}"
    else:
        return
    seen = f"training.fsdp is true, but {seen}"
    raise RecipeError(seen, remedy, code="sharded_unsupported", key=key, value=value)


def _loop(
    directory: RunDirectory,
    recipe: Recipe,
    model: Opened,
    module: Any,
    replay: Sequence[Replayed | Own],
) -> Loop:
    given, objective = (
        recipe.training,
        OBJECTIVES[recipe.objective].from_recipe(recipe, model.tokenizer),
    )
    network = Network(module)
    longest = given.max_length or model.context_length
    sets, validation = (
        {
            task: objective.items(directory.split(split, task), model.tokenizer, longest)
            for task in ("", *recipe.tasks)
        }
        for split in ("train", "validation")
    )
    shares = _shares(recipe, {task: len(items) for task, items in sets.items()})
    learnt = {task or "train": objective.prepare(network, items) for task, items in sets.items()}
    batches = Batches(
        learnt, given.batch_size, given.gradient_accumulation, given.epochs, recipe.seed, shares
    )
    if replay and recipe.replay.mode == "text":
        batches.add("replay", [one.row for one in replay])
    elif replay:
        batches.beside = held = anchors(network, [one.whole for one in replay])
        batches.beside_each = recipe.replay.anchors_per_step
        objective = _anchored(recipe, objective, batches, held)
    return Loop(
        module,
        batches,
        objective,
        _settings(recipe, model),
        {
            task or "validation": objective.prepare(network, items, training=False)
            for task, items in validation.items()
            if items
        },
        directory.checkpoints,
        lambda *_: None,
    )


@counts_to("replay conversations")
def _replay(directory: RunDirectory, recipe: Recipe, model: Opened) -> Sequence[Replayed | Own]:
    """What is read beside the task, by the user or by the base; kept with the run's data."""
    given = recipe.replay
    if not given.rows:
        return []
    kinds = [
        name
        for name, settings in SETTINGS.items()
        if (settings.rows.replies if given.mode == "text" else settings.can_anchor)
    ]
    if recipe.objective not in kinds or not isinstance(model, LanguageModel):
        if given.rows == "auto":
            directory.write_split("replay", ())
            return []
        raise RecipeError(
            f"replay.rows is {given.rows} and replay.mode {given.mode}, which "
            f"objective {recipe.objective} cannot read beside its own",
            f"set replay.rows to 0, or objective to one of {', '.join(kinds)}",
            code="replay_unsupported",
            key="replay.rows",
            value=given.rows,
            objective=recipe.objective,
        )
    found: Sequence[Replayed | Own]
    if given.data:
        longest = recipe.training.max_length
        found = own_rows(given.data, model.tokenizer, given.count, recipe.seed, longest)
    else:
        found = _written(recipe, model)
    directory.write_split("replay", examples_of(found))
    return found


def _written(recipe: Recipe, model: LanguageModel) -> Sequence[Replayed]:
    """By the base. With `auto` runs of all seeds share them, and a base that cannot is let off."""
    given, cache = recipe.replay, cache_folder() / "replay"
    if given.rows != "auto":
        return replayed(model, given.rows, recipe.seed, cache)
    try:
        return replayed(model, given.count, 0, cache)
    except ModelError:
        return []


def _anchored(
    recipe: Recipe, objective: Objective[Any], batches: Batches, held: Sequence[Anchor]
) -> Anchored:
    """Units a step over anchor tokens a step make a mean divergence weigh as a mean loss."""
    counts = batches.counts()
    units = sum(
        objective.units(items) * counts[name] / len(items) for name, items in batches.sets.items()
    )
    tokens = sum(anchor.row.learnt for anchor in held) / len(held) * recipe.replay.anchors_per_step
    tolerated = recipe.replay.target_kl or TOLERATED * recipe.budget.general
    return Anchored(objective, tolerated, units * batches.epochs / batches.steps / tokens)


def _shares(recipe: Recipe, sizes: dict[str, int]) -> dict[str, float]:
    """Share of an epoch that each data set gives: by size, temperature and weight."""
    shares = temperature_shares(sizes, recipe.mixing.temperature)
    weights = {task: recipe.tasks[task].weight if task else 1.0 for task in sizes}
    total = sum(shares[task] * weights[task] for task in sizes)
    return {task or "train": shares[task] * weights[task] / total for task in sizes}


def _settings(recipe: Recipe, model: Opened) -> Settings:
    given = recipe.training
    rate, faster = given.learning_rate, {"lora_B": recipe.lora.loraplus_ratio}
    if isinstance(rate, str):
        encoder = isinstance(model, Classifier) and model.body == "encoder"
        size = int(model.network.config.hidden_size)
        share = recipe.objective_settings.learning_rate_share
        rate = automatic_rate(recipe.method, size, share=share, encoder=encoder)
        if isinstance(model, Classifier) and encoder:
            faster |= dict.fromkeys(model.fresh, FRESH_HEAD_TIMES)
    return Settings(
        learning_rate=rate,
        schedule=given.lr_scheduler,
        warmup=given.warmup_ratio,
        weight_decay=given.weight_decay,
        clip=given.max_grad_norm,
        evaluations=given.evaluations,
        checkpoints=given.checkpoints,
        patience=given.early_stopping_patience,
        faster=faster,
    )


def _keep(directory: RunDirectory, loop: Loop, recipe: Recipe) -> None:
    """Copies the best checkpoint's weights whole, then puts them in their place."""
    name = "adapter" if recipe.method_traits.is_adapter else "model"
    with new_folder(directory.path / name) as new:
        step = loop.progress.best_step or loop.progress.step
        copy_weights(directory.checkpoints / f"step-{step}", new)
        if recipe.objective_settings.head is not None:
            loop.network.model.config.save_pretrained(str(new))  # it names the labels
