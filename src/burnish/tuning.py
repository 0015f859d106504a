"""One run's training: the recipe builds the model, the items, the objective and the loop."""

import json
import shutil
import time
from collections import Counter
from typing import Any

import torch

from burnish.errors import RunError
from burnish.models.adapt import add_lora, load_adapter, load_weights, save_weights
from burnish.models.branches import Network
from burnish.models.classifier import PEFT_TASK, Classifier, Constant, load_classifier
from burnish.models.heads import OUTSIDE
from burnish.models.language_model import LanguageModel, folder_sha256
from burnish.models.load import load_model, place
from burnish.progress import Bars
from burnish.recipe import HEADS, Recipe, restore_recipe
from burnish.run_directory import Manifest, RunDirectory, replace_directory
from burnish.training.batches import Batches
from burnish.training.checkpoint import saved_steps
from burnish.training.loop import Loop, Settings
from burnish.training.objective import Objective
from burnish.training.objectives import OBJECTIVES
from burnish.training.objectives.tag import all_tags
from burnish.training.schedule import FRESH_HEAD_TIMES, automatic_rate

# Methods that change the weights themselves, so that the run keeps a whole model.
WHOLE = ("full",)


def recipe_of(manifest: Manifest) -> Recipe:
    """The resolved recipe that a run was made with."""
    return restore_recipe(manifest.recipe, manifest.origins)  # type: ignore[arg-type]


def learn(directory: RunDirectory, recipe: Recipe, bars: Bars) -> None:
    """Trains to the end, going on from the last checkpoint if there is one."""
    manifest = directory.manifest()
    model = _start(directory, recipe)
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
    """The run's model with its adapter on; `model.base()` switches it off.

    Raises:
        RunError: the run has no adapter yet, or its model has a head and writes no text.
    """
    directory, recipe = _trained(run)
    if recipe.objective in HEADS:
        raise RunError(
            f"{directory.path} holds a model that labels and writes no text",
            "open it with burnish.open_classifier",
        )
    if recipe.method in WHOLE:
        return _open_full(recipe, directory)
    return load_model(recipe.model, recipe.device, directory.adapter)


def open_classifier(run: RunDirectory | Any) -> Classifier:
    """The run's model with its head; `model.base()` gives what it is compared with.

    Raises:
        RunError: the run has no adapter yet, or its model has no head.
    """
    directory, recipe = _trained(run)
    kind = recipe.objective
    if kind != "classify" and kind != "tag":
        raise RunError(
            f"{directory.path} holds a model that writes text (objective {kind})",
            "open it with burnish.open_tuned",
        )
    named = json.loads((directory.adapter / "config.json").read_text())["id2label"]
    labels = [named[str(index)] for index in range(len(named))]
    model = load_classifier(recipe.model, recipe.device, kind, labels, recipe.seed)
    if recipe.method in WHOLE:
        load_weights(model.module, directory.adapter)
    else:
        model.module = load_adapter(model.module, directory.adapter)
    model.adapter_sha256 = folder_sha256(directory.adapter)
    model.baseline = Constant(kind, OUTSIDE)
    if kind == "classify":
        counts = Counter(str(example.label) for example in directory.split("train"))
        model.baseline = Constant(kind, min(counts, key=lambda label: (-counts[label], label)))
    return model


def open_run(run: RunDirectory | Any) -> LanguageModel | Classifier:
    """The run's model, whether it writes or labels."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    headed = recipe_of(directory.manifest()).objective in HEADS
    return open_classifier(directory) if headed else open_tuned(directory)


def _trained(run: RunDirectory | Any) -> tuple[RunDirectory, Recipe]:
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    recipe = recipe_of(directory.manifest())
    if not directory.adapter.exists():
        raise RunError(f"{directory.path} has no adapter yet", "train it with `burnish run`")
    return directory, recipe


def _start(directory: RunDirectory, recipe: Recipe) -> LanguageModel | Classifier:
    """The model before training, a fresh head on it where the objective needs one."""
    kind = recipe.objective
    if kind != "classify" and kind != "tag":
        return load_model(recipe.model, recipe.device)
    examples = [*directory.split("train"), *directory.split("validation")]
    labels = all_tags(examples) if kind == "tag" else sorted({str(e.label) for e in examples})
    return load_classifier(recipe.model, recipe.device, kind, labels, recipe.seed)


def objective_of(recipe: Recipe) -> Objective[Any]:
    """The recipe's objective with its own section as arguments."""
    section = getattr(recipe, recipe.objective)
    return OBJECTIVES[recipe.objective](**section.model_dump())


def _loop(
    directory: RunDirectory,
    recipe: Recipe,
    model: LanguageModel | Classifier,
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


def _adapt(model: LanguageModel | Classifier, recipe: Recipe) -> Any:
    torch.manual_seed(recipe.seed)
    if recipe.method == "full":
        return model.module
    options = recipe.lora.model_dump(exclude={"plus"})
    if isinstance(model, Classifier):
        options |= {"task_type": PEFT_TASK[model.kind], "whole": list(model.fresh) or None}
    return add_lora(model.module, seed=recipe.seed, **options)


def _settings(recipe: Recipe, model: LanguageModel | Classifier) -> Settings:
    given = recipe.training
    rate, faster = given.learning_rate, {"lora_B": recipe.lora.plus}
    if rate == "auto":
        encoder = isinstance(model, Classifier) and model.body == "encoder"
        size = int(model.network.config.hidden_size)
        rate = automatic_rate(recipe.method, size, encoder=encoder)
        if isinstance(model, Classifier) and encoder:
            faster |= dict.fromkeys(model.fresh, FRESH_HEAD_TIMES)
    return Settings(
        learning_rate=float(rate),
        schedule=given.schedule,
        warmup=given.warmup,
        weight_decay=given.weight_decay,
        clip=given.clip,
        evaluations=given.evaluations,
        checkpoints=given.checkpoints,
        patience=given.patience,
        faster=faster,
    )


def _keep(module: Any, directory: RunDirectory, recipe: Recipe) -> None:
    """Writes the tuned weights whole, then puts them in their place."""
    name = "model" if recipe.method in WHOLE else "adapter"
    new = directory.path / f".{name}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    save_weights(module, new)
    if recipe.objective in HEADS:
        Network(module).model.config.save_pretrained(str(new))  # it names the labels
    replace_directory(new, directory.path / name)


def _open_full(recipe: Recipe, directory: RunDirectory) -> LanguageModel:
    model = load_model(recipe.model, recipe.device)
    model.keep_base()
    load_weights(model.module, directory.adapter)
    model.adapter_sha256 = folder_sha256(directory.adapter)
    return model
