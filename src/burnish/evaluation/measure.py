"""Measures models for a run: chooses the target task for its rows and runs all tasks."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from burnish.conversation import Example
from burnish.errors import DataError, ModelError, RecipeError
from burnish.evaluation.item_lengths import check_lengths
from burnish.evaluation.rewards import graded_reward
from burnish.evaluation.runner import run_task
from burnish.evaluation.scorers import scorer
from burnish.evaluation.suite import Suite
from burnish.evaluation.tasks import (
    CompareTask,
    GenerateTask,
    PredictTask,
    RewardTask,
    Task,
    TextLossTask,
    label_task,
    preference_task,
)
from burnish.models.cache import cache_folder
from burnish.models.classifier import Classifier
from burnish.models.endpoint import RemoteModel
from burnish.models.interface import ModelInfo, Sampling
from burnish.models.language_model import LanguageModel
from burnish.models.load import context_length, load_tokenizer
from burnish.models.loaded import LoadedModel
from burnish.models.merged_lora import merged_lora
from burnish.models.registry import resolve
from burnish.models.reward_model import RewardModel
from burnish.progress import Bars
from burnish.recipe.schema import Recipe
from burnish.runs.directory import RunDirectory

# The least number of rows that gives a confidence interval.
LEAST_TESTED = 2


def target_task(
    recipe: Recipe,
    directory: RunDirectory,
    model: LanguageModel | RemoteModel | Classifier | RewardModel,
    task: str = "",
    split: str = "test",
) -> Task:
    """The target task on the test rows: a head's labels, generation, likelihood or perplexity.

    `task` is the name of an additional data set of the recipe. With another `split`, the task is
    named after that split.
    """
    name = "target" if split == "test" else split
    name, examples = f"{name}.{task}" if task else name, tested(directory.split(split, task))
    if not examples:
        raise DataError(
            f"the {split} set is empty",
            f"increase data.split.{split}, or set data.{split} to a file",
            code="empty_split",
            split=split,
        )
    if recipe.evaluate.limit:
        drawn = sorted(examples, key=lambda example: _draw(recipe.seed, example.id))
        examples = drawn[: recipe.evaluate.limit]
    if isinstance(model, RewardModel):
        return CompareTask(name, examples)
    if isinstance(model, Classifier):
        return PredictTask(name, examples, target_scorers(recipe, examples)[0])
    if (measured := recipe.objective_settings.measured_reward) is not None:
        reward, rewarder = graded_reward(measured[0])
        sampling = Sampling(max_new_tokens=measured[1])
        return RewardTask(name, examples, reward, rewarder, sampling)
    if examples[0].messages[0].role == "document":
        return TextLossTask(name, [(e.id, e.expected) for e in examples])
    if examples[0].rejected is not None:
        return preference_task(name, examples)
    labels = sorted({e.label for e in directory.split("train", task) if e.label is not None})
    if recipe.evaluate.answer == "likelihood":
        if not labels:
            raise RecipeError(
                "evaluate.answer is likelihood, but the rows have no labels",
                "set evaluate.answer to generate",
                code="no_labels",
                key="evaluate.answer",
                value="likelihood",
            )
        return label_task(name, examples, labels)
    tokens = recipe.evaluate.max_new_tokens
    if labels and recipe.origins["evaluate.max_new_tokens"] == "default":
        # An answer longer than every label is wrong, so it need not be finished.
        tokens = 4 + max(len(model.tokenizer(label)["input_ids"]) for label in labels)
    first = target_scorers(recipe, examples)[0]
    return GenerateTask(name, examples, first, Sampling(max_new_tokens=tokens))


def tested(examples: Sequence[Example]) -> list[Example]:
    """The rows that a model is measured on, without those whose answer was disliked."""
    return [example for example in examples if example.liked is not False]


def _draw(seed: int, name: str) -> bytes:
    """A sort key that orders rows at random by the seed, independent of their names."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def target_scorers(recipe: Recipe, examples: Sequence[Example]) -> tuple[str, ...]:
    """The scorers of the recipe, or the default scorers for these rows."""
    if recipe.evaluate.target:
        return recipe.evaluate.target
    if recipe.objective_settings.scorers is not None:
        return recipe.objective_settings.scorers
    if any(example.rejected is not None for example in examples):
        return ("accuracy",)
    if any(example.label is not None for example in examples):
        return ("accuracy", "macro_f1")
    return ("rougeL", "chrf", "exact_match")


def check_tested(recipe: Recipe) -> None:
    """Check that every data set has test rows, on which the gain is measured.

    Raises:
        RecipeError: a data set has none.
    """
    for task, data in {"": recipe.data, **recipe.tasks}.items():
        if data.test is None and not data.split.test:
            key = f"tasks.{task}" if task else "data"
            raise RecipeError(
                f"{key}.split.test is 0 and {key}.test is not set, so the gain cannot be measured",
                "set one of them, or use `burnish train`",
                code="no_test_rows",
                key=f"{key}.split.test",
            )


def check_scorers(recipe: Recipe) -> None:
    """Check the recipe's scorers before training.

    Raises:
        UserError: a scorer is unknown, or the first one does not score single items.
    """
    names = recipe.evaluate.target or ()
    for name in names:
        scorer(name)
    if names and scorer(names[0]).item is None and recipe.objective_settings.writes_text:
        raise RecipeError(
            f"evaluate.target starts with {names[0]}, which does not score single items",
            "start with a scorer of single items, such as accuracy or rougeL",
            code="not_an_item_scorer",
            key="evaluate.target",
            scorer=names[0],
        )


def check_suites(recipe: Recipe, suites: Sequence[Suite]) -> None:
    """Check before training that every item of the suites fits into the model's context.

    Raises:
        DataError: an item is too long.
    """
    source = resolve(recipe.model)
    tasks = [task for suite in suites for task in suite.tasks]
    settings = recipe.model_settings
    tokenizer = load_tokenizer(source, settings.stop_tokens, thinking=settings.thinking)
    check_lengths(tasks, tokenizer, context_length(source))


def results_cache() -> Path:
    """The folder that caches results of base models for later runs."""
    return cache_folder() / "results"


def measure(
    directory: RunDirectory, model: ModelInfo, label: str, tasks: Sequence[Task], bars: Bars
) -> None:
    """Measure a model on the tasks and save its results under `label`; base results are cached."""
    cache = results_cache() if label == "base" else None
    merged = merged_lora(model.module) if isinstance(model, LoadedModel) else nullcontext()
    with merged, bars.items(f"{label} model", sum(len(task) for task in tasks)) as advance:
        for task in tasks:
            started = time.perf_counter()
            path = directory.results_path(label, task.name)
            try:
                run_task(model, task, path, cache=cache, advance=advance)
            except ModelError:
                if isinstance(model, LanguageModel):  # its error names an item that is too long
                    check_lengths([task], model.tokenizer, model.context_length)
                raise
            seconds = round(time.perf_counter() - started, 2)
            directory.log("evaluate", label=label, task=task.name, n=len(task), seconds=seconds)
