"""One run's training: the recipe builds the model, the items, the objective and the loop."""

import shutil
import time
from typing import Any

import torch

from burnish.errors import RecipeError, RunError
from burnish.models.adapt import add_lora, load_weights, save_weights
from burnish.models.language_model import LanguageModel, folder_sha256
from burnish.models.load import load_model, place
from burnish.models.served import ServedModel
from burnish.models.verbs import Sampling
from burnish.progress import Bars
from burnish.recipe import Recipe, restore_recipe
from burnish.rewards import reward_of
from burnish.run_directory import Manifest, RunDirectory, replace_directory
from burnish.training.batches import Batches
from burnish.training.checkpoint import saved_steps
from burnish.training.loop import Loop, Settings
from burnish.training.objective import Objective
from burnish.training.objectives import OBJECTIVES
from burnish.training.objectives.distill import LocalTeacher, OwnBase, Teacher
from burnish.training.schedule import automatic_rate

# Methods that change the weights themselves, so that the run keeps a whole model.
WHOLE = ("full",)


def recipe_of(manifest: Manifest) -> Recipe:
    """The resolved recipe that a run was made with."""
    return restore_recipe(manifest.recipe, manifest.origins)  # type: ignore[arg-type]


def learn(directory: RunDirectory, recipe: Recipe, bars: Bars) -> None:
    """Trains to the end, going on from the last checkpoint if there is one."""
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


def objective_of(recipe: Recipe, model: LanguageModel) -> Objective[Any]:
    """The recipe's objective with its own section as arguments.

    Raises:
        RecipeError: its reward or teacher does not exist or does not fit.
    """
    options = getattr(recipe, recipe.objective).model_dump()
    if recipe.objective in ("grpo", "distill"):
        options["tokenizer"] = model.tokenizer
        options["sampling"] = Sampling(
            max_new_tokens=options.pop("max_new_tokens"),
            temperature=options.pop("temperature"),
            seed=recipe.seed << 20,  # each step adds its number
        )
    if recipe.objective == "grpo":
        options["reward"] = reward_of(recipe.grpo.reward)
    if recipe.objective == "distill":
        del options["served_name"]
        options["teacher"] = _teacher(recipe, model)
    return OBJECTIVES[recipe.objective](**options)


def _teacher(recipe: Recipe, model: LanguageModel) -> Teacher:
    """Who is learnt from: the base itself, a server, or another local model."""
    given = recipe.distill
    if given.teacher is None:
        return OwnBase()
    if given.teacher.startswith(("http://", "https://")):
        if given.direction == "reverse":
            raise RecipeError(
                "distill.direction is reverse, but a server names only the likeliest tokens",
                "set it to forward, or name a local teacher",
            )
        return ServedModel(given.teacher, given.served_name, model.tokenizer)
    other = load_model(given.teacher, recipe.device)
    if other.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise RecipeError(
            f"distill.teacher {given.teacher} has another vocabulary than {model.name}",
            "choose a teacher of the same family",
        )
    return LocalTeacher(other.network)


def _loop(
    directory: RunDirectory,
    recipe: Recipe,
    model: LanguageModel,
    module: Any,
    settings: Settings,
) -> Loop:
    given, objective = recipe.training, objective_of(recipe, model)
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
