"""One run's training: the recipe builds the model, the items, the objective and the loop."""

import shutil
import time
from typing import Any

import torch

from burnish.errors import RunError
from burnish.models.adapt import add_lora, load_weights, save_weights
from burnish.models.language_model import LanguageModel, folder_sha256
from burnish.models.load import load_model, place
from burnish.progress import Bars
from burnish.recipe import Recipe, restore_recipe
from burnish.run_directory import Manifest, RunDirectory, replace_directory
from burnish.training.batches import Batches
from burnish.training.checkpoint import saved_steps
from burnish.training.loop import Listener, Loop, Settings
from burnish.training.objective import Objective
from burnish.training.objectives import OBJECTIVES
from burnish.training.schedule import automatic_rate

# Methods that change the weights themselves, so that the run keeps a whole model.
WHOLE = ("full",)


def recipe_of(manifest: Manifest) -> Recipe:
    """The resolved recipe that a run was made with."""
    return restore_recipe(manifest.recipe, manifest.origins)  # type: ignore[arg-type]


def learn(
    directory: RunDirectory, recipe: Recipe, bars: Bars, watch: Listener | None = None
) -> None:
    """Trains to the end, going on from the last checkpoint if there is one.

    `watch` hears the loop's events; what it raises ends the training there, between two steps.
    """
    manifest = directory.manifest()
    model = load_model(recipe.model, recipe.device)
    bars.say(f"{model.name} on {place(recipe.device)}")
    module = _adapt(model, recipe)
    settings = _settings(recipe, model)
    loop = _loop(directory, recipe, model, module, settings)
    with bars.training(loop.batches.steps) as show:

        def listen(phase: str, values: dict[str, Any]) -> None:
            directory.log(phase, **values)
            show(phase, values)
            if watch:
                watch(phase, values)

        loop.listen = listen
        directory.drop_events_after(max(saved_steps(directory.checkpoints), default=0))
        started = time.perf_counter()
        progress = loop.run(resume=True)
    manifest.times["train"] = round(time.perf_counter() - started, 1)
    _keep(module, directory, recipe)
    manifest.training = {
        "learning_rate": settings.learning_rate,
        "steps": progress.step,
        "tokens": progress.tokens,
        "best_step": progress.best_step,
        "stopped_early": progress.stopped,
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "device": str(place(recipe.device)),
    }
    manifest.state = "trained"
    directory.write_manifest(manifest)


def open_tuned(run: RunDirectory | Any) -> LanguageModel:
    """The run's model with its adapter on; `model.base()` switches it off."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    recipe = recipe_of(directory.manifest())
    if not directory.adapter.exists():
        raise RunError(f"{directory.path} has no adapter yet", "train it with `burnish run`")
    if recipe.method in WHOLE:
        return _open_full(recipe, directory)
    return load_model(recipe.model, recipe.device, directory.adapter)


def objective_of(recipe: Recipe) -> Objective[Any]:
    """The recipe's objective with its own section as arguments."""
    section = getattr(recipe, recipe.objective)
    return OBJECTIVES[recipe.objective](**section.model_dump())


def _loop(
    directory: RunDirectory,
    recipe: Recipe,
    model: LanguageModel,
    module: Any,
    settings: Settings,
) -> Loop:
    given, objective = recipe.training, objective_of(recipe)
    longest = given.max_length or model.context_length
    items, validation = (
        objective.items(directory.split(split), model.tokenizer, longest)
        for split in ("train", "validation")
    )
    batches = Batches({}, given.batch_size, given.accumulation, given.epochs, recipe.seed)
    loop = Loop(
        module,
        batches,
        objective,
        settings,
        {"validation": validation} if validation else {},
        directory.checkpoints,
        lambda *_: None,
    )
    batches.sets = {"train": objective.prepare(loop.network, items)}
    return loop


def _adapt(model: LanguageModel, recipe: Recipe) -> Any:
    torch.manual_seed(recipe.seed)
    if recipe.method == "full":
        return model.module
    options = recipe.lora.model_dump(exclude={"plus"})
    return add_lora(model.module, seed=recipe.seed, **options)


def _settings(recipe: Recipe, model: LanguageModel) -> Settings:
    given = recipe.training
    rate = given.learning_rate
    if rate == "auto":
        rate = automatic_rate(recipe.method, int(model.network.config.hidden_size))
    return Settings(
        learning_rate=float(rate),
        schedule=given.schedule,
        warmup=given.warmup,
        weight_decay=given.weight_decay,
        clip=given.clip,
        evaluations=given.evaluations,
        checkpoints=given.checkpoints,
        patience=given.patience,
        faster={"lora_B": recipe.lora.plus},
    )


def _keep(module: Any, directory: RunDirectory, recipe: Recipe) -> None:
    """Writes the tuned weights whole, then puts them in their place."""
    name = "model" if recipe.method in WHOLE else "adapter"
    new = directory.path / f".{name}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    save_weights(module, new)
    replace_directory(new, directory.path / name)


def _open_full(recipe: Recipe, directory: RunDirectory) -> LanguageModel:
    model = load_model(recipe.model, recipe.device)
    model.keep_base()
    load_weights(model.module, directory.adapter)
    model.adapter_sha256 = folder_sha256(directory.adapter)
    return model
