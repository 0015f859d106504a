"""What a run measures: the target task that fits its rows, both models, and the ledger of it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from burnish.chat import Example
from burnish.errors import DataError, RecipeError
from burnish.evaluation.runner import run_task
from burnish.evaluation.scorers import scorer
from burnish.evaluation.suite import Suite, near_chance
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
from burnish.models.language_model import LanguageModel
from burnish.models.reward_model import RewardModel
from burnish.models.verbs import Measured, Sampling
from burnish.progress import Bars
from burnish.recipe import HEADS, Recipe
from burnish.retention.budgets import Budgets
from burnish.retention.ledger import (
    bias_row,
    general_row,
    kl_row,
    perplexity_row,
    reward_row,
    section_row,
    target_rows,
    text_loss_row,
)
from burnish.retention.power import Sizes
from burnish.rewards import graded_reward
from burnish.run_directory import LedgerRow, RunDirectory


def target_task(
    recipe: Recipe,
    directory: RunDirectory,
    model: LanguageModel | Classifier | RewardModel,
    task: str = "",
    split: str = "test",
) -> Task:
    """Labels of a head, generation, labels by likelihood, or perplexity, on the test rows.

    `task` names a data set beside the recipe's main one. Of another `split` the task has its name.
    """
    name = "target" if split == "test" else split
    name, examples = f"{name}.{task}" if task else name, directory.split(split, task)
    if not examples:
        raise DataError(
            f"the {split} set is empty", f"raise data.split.{split}, or name data.{split}"
        )
    if recipe.evaluate.limit:
        examples = sorted(examples, key=lambda example: example.id)[: recipe.evaluate.limit]
    if isinstance(model, RewardModel):
        return CompareTask(name, examples)
    if isinstance(model, Classifier):
        return PredictTask(name, examples, target_scorers(recipe, examples)[0])
    if recipe.objective == "grpo":
        reward, rewarder = graded_reward(recipe.grpo.reward)
        sampling = Sampling(max_new_tokens=recipe.grpo.max_new_tokens)
        return RewardTask(name, examples, reward, rewarder, sampling)
    if examples[0].messages[0].role == "document":
        return TextLossTask(name, [(e.id, e.expected) for e in examples])
    if examples[0].rejected is not None:
        return preference_task(name, examples)
    if examples[0].liked is not None:  # a disliked answer is no answer to be like
        examples = [example for example in examples if example.liked]
    labels = sorted({e.label for e in directory.split("train", task) if e.label is not None})
    if recipe.evaluate.answer == "likelihood":
        if not labels:
            raise RecipeError(
                "evaluate.answer is likelihood, but the rows have no labels", "set it to generate"
            )
        return label_task(name, examples, labels)
    tokens = recipe.evaluate.max_new_tokens
    if labels and recipe.origins["evaluate.max_new_tokens"] == "default":
        # An answer longer than every label is wrong whatever follows.
        tokens = 4 + max(len(model.tokenizer(label)["input_ids"]) for label in labels)
    first = target_scorers(recipe, examples)[0]
    return GenerateTask(name, examples, first, Sampling(max_new_tokens=tokens))


def target_scorers(recipe: Recipe, examples: Sequence[Example]) -> tuple[str, ...]:
    """The recipe's scorers, or those that fit the rows."""
    if recipe.evaluate.target:
        return recipe.evaluate.target
    if recipe.objective == "tag":
        return ("span_f1", "span_precision", "span_recall")
    if any(example.rejected is not None for example in examples):
        return ("accuracy",)
    if any(example.label is not None for example in examples):
        return ("accuracy", "macro_f1")
    return ("rougeL", "chrf", "exact_match")


def check_scorers(recipe: Recipe) -> None:
    """A misspelt scorer is found before an hour of training, not after it."""
    names = recipe.evaluate.target or ()
    for name in names:
        scorer(name)
    if names and scorer(names[0]).item is None and recipe.objective not in HEADS:
        raise RecipeError(
            f"evaluate.target begins with {names[0]}, which is no score of single items",
            "put a scorer of single items first, such as accuracy or rougeL",
        )


def budgets_of(recipe: Recipe) -> Budgets:
    """What the recipe allows to be forgotten."""
    given = recipe.budget
    return Budgets(
        given.general,
        given.section,
        given.text_loss,
        given.bias,
        given.refusal,
        given.confidence,
    )


def suite_sizes(suite: Suite) -> Sizes:
    """How many items of each part there are."""
    counts = {task.name: len(task) for task in suite.sections}
    refusal = next((n for name, n in counts.items() if name.endswith(".refusal")), None)
    return Sizes(counts, sum(len(task) for task in suite.texts) or None, None, refusal)


def check_budgets(recipe: Recipe, suite: Suite) -> None:
    """A budget that was asked for has items; one that stands by default may have none.

    Raises:
        RecipeError: the suite has no items for it.
    """
    sizes = suite_sizes(suite)
    counts = {"text_loss": sizes.texts, "bias": sizes.bias, "refusal": sizes.refusal}
    for key, budget in recipe.budget.model_dump().items():
        asked = recipe.origins.get(f"budget.{key}", "default") != "default"
        if key in counts and counts[key] is None and asked and budget is not None:
            raise RecipeError(
                f"budget.{key} is {budget:g}, but the suite {suite.name} has no items for it",
                f"set budget.{key} to null, or choose another evaluate.general",
            )


def results_cache() -> Path:
    """Where results of base models are kept for the next run."""
    return cache_folder() / "results"


def measure(
    directory: RunDirectory, model: Measured, label: str, tasks: Sequence[Task], bars: Bars
) -> None:
    cache = results_cache() if label == "base" else None
    with bars.items(f"{label} model", sum(len(task) for task in tasks)) as advance:
        for task in tasks:
            started = time.perf_counter()
            run_task(
                model, task, directory.results_path(label, task.name), cache=cache, advance=advance
            )
            seconds = round(time.perf_counter() - started, 2)
            directory.log("evaluate", label=label, task=task.name, n=len(task), seconds=seconds)


def target_ledger(
    recipe: Recipe, tested: Sequence[Example], pair: tuple[Any, Any]
) -> list[LedgerRow]:
    """Base against tuned on one test set; the first row decides."""
    if recipe.objective == "grpo":
        return [reward_row("target", pair, recipe.seed)]
    if tested[0].messages[0].role == "document":
        return [perplexity_row("target", pair, recipe.seed)]
    return target_rows(pair, target_scorers(recipe, tested), recipe.seed)


def fill_ledger(directory: RunDirectory, recipe: Recipe, suite: Suite | None) -> list[LedgerRow]:
    """Base against tuned on the target, the suite mean, and each part of the suite.

    The mean is over the sections in which the base is above chance; there is none without them.
    """

    def pair(task: str) -> tuple[Any, Any]:
        return directory.results("base", task), directory.results("tuned", task)

    rows: list[LedgerRow] = []
    for task in ("", *recipe.tasks):
        name, tested = f"target.{task}" if task else "target", directory.split("test", task)
        found = target_ledger(recipe, tested, pair(name))
        rows += [replace(row, task=name) for row in found]
    if suite is None:
        return rows
    sections = {task.name: pair(task.name) for task in suite.sections}
    excluded = {task.name: near_chance(task, sections[task.name][0]) for task in suite.sections}
    if counted := {name: found for name, found in sections.items() if excluded[name] is None}:
        rows.append(general_row(suite.name, counted, recipe.budget.general))
    rows += [section_row(name, found, excluded[name]) for name, found in sections.items()]
    rows += [text_loss_row(t.name, pair(t.name), recipe.seed) for t in suite.texts]
    rows += [bias_row(t.name, pair(t.name)) for t in suite.bias]
    return rows + [kl_row(t.name, pair(t.name), recipe.seed) for t in suite.openings]
