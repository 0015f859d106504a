"""Opens a run's model, before or after training."""

import contextlib
import json
from collections import Counter
from pathlib import Path

from burnish.data.chat_templates import set_stop_tokens, set_thinking
from burnish.data.tags import all_tags
from burnish.errors import RunError
from burnish.models.classifier import Classifier, ConstantBaseline, load_classifier
from burnish.models.head_inputs import OUTSIDE
from burnish.models.language_model import LanguageModel
from burnish.models.lineage import apply_tuned, check_trained, recipe_of, tuned_sha256
from burnish.models.load import load_model
from burnish.models.registry import resolve
from burnish.models.reward_model import RewardModel, load_reward_model
from burnish.recipe.schema import Recipe
from burnish.runs.directory import RunDirectory

Opened = LanguageModel | Classifier | RewardModel


def open_tuned(run: RunDirectory | Path | str) -> LanguageModel:
    """Opens the run's tuned model; `model.base()` is the base model of the recipe.

    Raises:
        RunError: the run is not trained to the end, its model has a head and writes no text, or the
            base is not the one that it was trained on.
    """
    directory, recipe = _trained(run)
    if not recipe.objective_settings.writes_text:
        raise RunError(
            f"{directory.path} contains a classifier, which does not generate text",
            "open it with burnish.open_classifier",
            code="writes_no_text",
            path=str(directory.path),
            objective=recipe.objective,
        )
    model = load_base(recipe)
    changes_weights = not recipe.method_traits.is_adapter or recipe.init_from is not None
    with model.keeping_base() if changes_weights else contextlib.nullcontext():
        model.module = apply_tuned(directory, model.module)
    model.adapter_sha256 = tuned_sha256(directory)
    return model


def open_classifier(run: RunDirectory | Path | str) -> Classifier:
    """Opens the run's classifier; `model.base()` is the baseline that it is compared with.

    Raises:
        RunError: the run is not trained to the end, or its model has no head.
    """
    directory, recipe = _trained(run)
    head = recipe.objective_settings.head
    if head is None or head.kind == "reward":
        raise RunError(
            f"{directory.path} contains a language model, not a classifier (objective "
            f"{recipe.objective})",
            "open it with burnish.open_tuned",
            code="writes_text",
            path=str(directory.path),
            objective=recipe.objective,
        )
    named = json.loads((directory.adapter / "config.json").read_text())["id2label"]
    labels = [named[str(index)] for index in range(len(named))]
    model = load_classifier(recipe.model, recipe.device, head.kind, labels, recipe.seed)
    model.module = apply_tuned(directory, model.module)
    model.adapter_sha256 = tuned_sha256(directory)
    model.baseline = ConstantBaseline(head.kind, OUTSIDE)
    if head.kind == "classify":
        counts = Counter(str(example.label) for example in directory.split("train"))
        model.baseline = ConstantBaseline(
            head.kind, min(counts, key=lambda label: (-counts[label], label))
        )
    return model


def open_reward_model(run: RunDirectory | Path | str) -> RewardModel:
    """Opens the run's reward model.

    Raises:
        RunError: the run is not trained to the end, or gives no rewards.
    """
    directory, recipe = check_reward_run(run)
    model = _load_reward_model(recipe)
    model.module = apply_tuned(directory, model.module)
    model.adapter_sha256 = tuned_sha256(directory)
    return model


def check_reward_run(run: RunDirectory | Path | str) -> tuple[RunDirectory, Recipe]:
    """Checks that a run contains a reward model; returns the run and its recipe."""
    directory, recipe = _trained(run)
    head = recipe.objective_settings.head
    if head is None or head.kind != "reward":
        raise RunError(
            f"{directory.path} does not contain a reward model (objective {recipe.objective})",
            "use a run with the objective reward",
            code="not_a_reward_model",
            path=str(directory.path),
            objective=recipe.objective,
        )
    return directory, recipe


def open_run(run: RunDirectory | Path | str) -> Opened:
    """Opens the run's model, whether a language model, a classifier or a reward model."""
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    head = recipe_of(directory.manifest()).objective_settings.head
    if head is None:
        return open_tuned(directory)
    return open_reward_model(directory) if head.kind == "reward" else open_classifier(directory)


def open_start(directory: RunDirectory, recipe: Recipe) -> Opened:
    """Opens the model before training, with a new head if the objective needs one.

    Raises:
        RunError: the run started with a different base model.
    """
    _check_base(directory, recipe)
    head = recipe.objective_settings.head
    if head is None:
        return load_base(recipe)
    if head.kind == "reward":
        return _load_reward_model(recipe)
    examples = [
        example
        for task in ("", *recipe.tasks)
        for split in ("train", "validation")
        for example in directory.split(split, task)
    ]
    labels = all_tags(examples) if head.kind == "tag" else sorted({str(e.label) for e in examples})
    return load_classifier(recipe.model, recipe.device, head.kind, labels, recipe.seed)


def load_base(recipe: Recipe) -> LanguageModel:
    """Loads the recipe's base model with the recipe's stop tokens."""
    model = load_model(recipe.model, recipe.device, four_bit=recipe.method_traits.four_bit)
    set_stop_tokens(model.tokenizer, recipe.model_settings.stop_tokens)
    set_thinking(model.tokenizer, recipe.model_settings.thinking)
    return model


def _load_reward_model(recipe: Recipe) -> RewardModel:
    """Loads a reward model; it needs the stop tokens to find the ends of turns."""
    model = load_reward_model(recipe.model, recipe.device, recipe.seed)
    set_stop_tokens(model.tokenizer, recipe.model_settings.stop_tokens)
    set_thinking(model.tokenizer, recipe.model_settings.thinking)
    return model


def _trained(run: RunDirectory | Path | str) -> tuple[RunDirectory, Recipe]:
    directory = run if isinstance(run, RunDirectory) else RunDirectory.open(run)
    recipe = recipe_of(directory.manifest())
    check_trained(directory)
    _check_base(directory, recipe)
    return directory, recipe


def _check_base(directory: RunDirectory, recipe: Recipe) -> None:
    """Refuses changed base weights: an adapter on other weights is an untested model."""
    then, now = directory.manifest().model["sha256"], resolve(recipe.model).sha256
    if now != then:
        raise RunError(
            f"the weights of {recipe.model} have changed since {directory.path} was started "
            f"(sha256 {now[:12]}, before {then[:12]})",
            "restore the weights, or train again with another --name",
            code="base_changed",
            path=str(directory.path),
            model=recipe.model,
        )
