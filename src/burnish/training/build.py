"""Builds the training of a run from its recipe: the model, the items, the objective, the loop."""

from collections.abc import Sequence
from typing import Any

import torch

from burnish.models.branches import Network
from burnish.models.classifier import Classifier
from burnish.models.from_run import Opened, open_start
from burnish.models.lineage import trainable_model
from burnish.progress import counts_to
from burnish.recipe.schema import Recipe
from burnish.runs.directory import RunDirectory
from burnish.training.anchor import anchored, anchors
from burnish.training.batches import Batches, temperature_shares
from burnish.training.loop import Loop, Settings
from burnish.training.objectives import OBJECTIVES
from burnish.training.replay import Own, Replayed, replay_rows
from burnish.training.schedule import FRESH_HEAD_TIMES, automatic_rate


@counts_to("loading models")
def open_training(directory: RunDirectory, recipe: Recipe) -> tuple[Opened, Loop]:
    """Open the model and build its loop before the first step, without a listener."""
    model = open_start(directory, recipe)
    replay = replay_rows(directory, recipe, model)
    torch.manual_seed(recipe.seed)
    module = trainable_model(directory, recipe, model.module, getattr(model, "fresh", ()))
    return model, _loop(directory, recipe, model, module, replay)


def _loop(
    directory: RunDirectory,
    recipe: Recipe,
    model: Opened,
    module: Any,
    replay: Sequence[Replayed | Own],
) -> Loop:
    settings = recipe.training
    objective = OBJECTIVES[recipe.objective].from_recipe(recipe, model.tokenizer)
    network = Network(module)
    longest = settings.max_length or model.context_length
    sets, validation = (
        {
            task: objective.items(directory.split(split, task), model.tokenizer, longest)
            for task in ("", *recipe.tasks)
        }
        for split in ("train", "validation")
    )
    shares = _shares(recipe, {task: len(items) for task, items in sets.items()})
    batches = Batches(
        {task or "train": objective.prepare(network, items) for task, items in sets.items()},
        settings.batch_size,
        settings.gradient_accumulation,
        settings.epochs,
        recipe.seed,
        shares,
    )
    if replay and recipe.replay.mode == "text":
        batches.add("replay", [one.row for one in replay])
    elif replay:
        batches.beside = texts = anchors(network, [one.whole for one in replay])
        batches.beside_each = recipe.replay.anchors_per_step
        objective = anchored(recipe, objective, batches, texts)
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


def _shares(recipe: Recipe, sizes: dict[str, int]) -> dict[str, float]:
    """Return each data set's share of an epoch, from size, temperature and weight."""
    shares = temperature_shares(sizes, recipe.mixing.temperature)
    weights = {task: recipe.tasks[task].weight if task else 1.0 for task in sizes}
    total = sum(shares[task] * weights[task] for task in sizes)
    return {task or "train": shares[task] * weights[task] / total for task in sizes}


def _settings(recipe: Recipe, model: Opened) -> Settings:
    training = recipe.training
    rate, faster = training.learning_rate, {"lora_B": recipe.lora.loraplus_ratio}
    if isinstance(rate, str):
        encoder = isinstance(model, Classifier) and model.body == "encoder"
        size = int(model.network.config.hidden_size)
        share = recipe.objective_settings.learning_rate_share
        rate = automatic_rate(recipe.method, size, share=share, encoder=encoder)
        if isinstance(model, Classifier) and encoder:
            faster |= dict.fromkeys(model.fresh, FRESH_HEAD_TIMES)
    return Settings(
        learning_rate=rate,
        schedule=training.lr_scheduler,
        warmup=training.warmup_ratio,
        weight_decay=training.weight_decay,
        clip=training.max_grad_norm,
        evaluations=training.evaluations,
        checkpoints=training.checkpoints,
        patience=training.early_stopping_patience,
        faster=faster,
    )
