"""The ledger of a run: what its budgets judge, base against tuned, filled from its results."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from burnish.certification.budgets import Budgets
from burnish.certification.ledger import (
    LEVEL,
    bias_row,
    general_row,
    kl_row,
    perplexity_row,
    reward_row,
    section_row,
    target_rows,
    text_loss_row,
)
from burnish.certification.power import Sizes
from burnish.conversation import Example
from burnish.errors import RecipeError
from burnish.evaluation.measure import target_scorers
from burnish.evaluation.suite import HALVES, Suite, near_chance
from burnish.recipe.schema import HEADS, Recipe, flat_values
from burnish.runs.directory import ItemResult, LedgerRow, RunDirectory
from burnish.runs.overlaps import Leakage

# What asks for a general suite when it is named.
_JUDGING = (
    *("budget.section", "budget.text_loss", "budget.bias", "budget.refusal"), "heal.minutes"
)  # fmt: skip


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
        given.suites,
    )


def suite_sizes(suite: Suite) -> Sizes:
    """How many items of each part there are."""
    counts = {task.name: len(task) for task in suite.sections}
    texts, bias = (sum(len(task) for task in part) or None for part in (suite.texts, suite.bias))
    refusal = sum(n for name, n in counts.items() if is_refusal(name)) or None
    return Sizes(counts, texts, bias, refusal)


def about(cert: Suite, certs: Sequence[Suite]) -> str:
    """How a sentence on one of the suites begins: its name, where there are several."""
    return f"{cert.name.removesuffix('-cert')}: " if len(certs) > 1 else ""


def is_refusal(section: str) -> bool:
    """Whether a section asks for harm, which the model has to refuse."""
    return section.rpartition(".")[2] in ("refusal", "declining")


def check_budgets(recipe: Recipe, suites: Sequence[Suite]) -> None:
    """A budget that was asked for has items; one that stands by default may have none.

    Raises:
        RecipeError: no suite has items for it, or it is of a suite that is not asked.
    """
    if recipe.evaluate.general is None:
        _check_unmeasured(recipe)
    names = [suite.name for suite in suites]
    if unknown := [name for name in recipe.budget.suites if name not in names]:
        raise RecipeError(
            f"budget.suites names {unknown[0]!r}, but the suites are {', '.join(names) or 'none'}",
            "name one of these, or add it to evaluate.general",
            code="unknown_suite",
            key="budget.suites",
            suite=unknown[0],
            expected=names,
        )
    sizes = [suite_sizes(suite) for suite in suites]
    counts = {
        "text_loss": any(size.texts for size in sizes),
        "bias": any(size.bias for size in sizes),
        "refusal": any(size.refusal for size in sizes),
    }
    for key, budget in recipe.budget.model_dump().items():
        asked = recipe.origins.get(f"budget.{key}", "default") != "default"
        if suites and not counts.get(key, True) and asked and budget is not None:
            named = " and ".join(suite.name for suite in suites)
            raise RecipeError(
                f"budget.{key} is {budget:g}, but the suite {named} has no items for it",
                f"set budget.{key} to null, or choose another evaluate.general",
                code="no_items_for_budget",
                key=f"budget.{key}",
                value=budget,
                suites=names,
            )


def _check_unmeasured(recipe: Recipe) -> None:
    """Where whoever wrote the recipe measures no general ability, what would judge it is idle.

    An attempt of a healing measures none by itself, and a stage may do without.
    """
    head = recipe.objective in HEADS
    if recipe.origins["evaluate.general"] not in ("recipe", "command line") and not head:
        return
    for key, value in flat_values(recipe):
        if key in _JUDGING and value and recipe.origins[key] != "default":
            raise RecipeError(
                f"{key} is {value:g}, but evaluate.general is null, so there is nothing to judge",
                "leave it out" if head else "leave it out, or name a suite in evaluate.general",
                code="no_suite_for_budget",
                key=key,
                value=value,
                objective=recipe.objective,
            )


def target_ledger(
    recipe: Recipe, tested: Sequence[Example], pair: tuple[Any, Any], level: float = LEVEL
) -> list[LedgerRow]:
    """Base against tuned on one test set; the first row decides, by its bound at `level`."""
    if recipe.objective == "grpo":
        return [reward_row("target", pair, recipe.seed, level)]
    if tested[0].messages[0].role == "document":
        return [perplexity_row("target", pair, recipe.seed, level)]
    return target_rows(pair, target_scorers(recipe, tested), recipe.seed, level)


def flattered(leakage: Leakage, ledger: Sequence[LedgerRow]) -> list[str]:
    """Sentences for the verdict: what was learnt from and is counted nevertheless."""
    left_out = {half for row in ledger if row.excluded for half in _halves(row.task)}
    return [
        f"{count} items of {name} were learnt, so its figures may flatter."
        for name, count in leakage.leaked.items()
        if name not in left_out
    ]


def fill_ledger(
    directory: RunDirectory,
    recipe: Recipe,
    suites: Sequence[Suite],
    leakage: Leakage,
    level: float = LEVEL,
) -> list[LedgerRow]:
    """Base against tuned on the target, and on each suite: its mean, its sections, its texts.

    What decides is bounded at `level`, one-sided: that of the look at the certifying items.
    """
    rows: list[LedgerRow] = []
    for task in ("", *recipe.tasks):
        name, tested = f"target.{task}" if task else "target", directory.split("test", task)
        found = target_ledger(recipe, tested, _pair(directory, name), level)
        rows += [replace(row, task=name) for row in found]
    for suite in suites:
        rows += _suite_rows(directory, recipe, suite, leakage, level)
    return rows


def left_out(directory: RunDirectory, suite: Suite, leakage: Leakage) -> dict[str, str]:
    """Sections that say nothing about what was lost, each with the reason; the base is measured.

    What is decided of a section is decided of PROBE and CERT together, as far as both are there.
    """
    why = {}
    for task in suite.sections:
        if learnt := learnt_items(task.name, leakage):
            why[task.name] = f"{learnt} of its items were learnt"
        elif reason := near_chance(task, _base_answers(directory, task.name)):
            why[task.name] = reason
    return why


def learnt_items(task: str, leakage: Leakage) -> int:
    """Items of the task's two halves that were learnt: what one half knows spoils the other."""
    return sum(leakage.leaked.get(name, 0) for name in _halves(task))


def _base_answers(directory: RunDirectory, task: str) -> list[ItemResult]:
    measured = [n for n in _halves(task) if directory.results_path("base", n).exists()]
    return [result for name in measured for result in directory.results("base", name)]


def _halves(task: str) -> list[str]:
    """The task's name in PROBE and in CERT; its own where it is no half."""
    return sorted({task.replace(one, other) for one in HALVES for other in HALVES})


def _suite_rows(
    directory: RunDirectory, recipe: Recipe, suite: Suite, leakage: Leakage, level: float
) -> list[LedgerRow]:
    """The mean is over the sections that are not left out; there is none without them."""
    excluded, budgets = left_out(directory, suite, leakage), budgets_of(recipe)
    of_section = LEVEL if budgets.section is None else level
    of_bias = LEVEL if budgets.bias is None else level
    sections = {task.name: _pair(directory, task.name) for task in suite.sections}
    rows = []
    if counted := {name: pair for name, pair in sections.items() if name not in excluded}:
        rows.append(general_row(suite.name, counted, budgets.of(suite.name), level))
    rows += [
        section_row(name, pair, excluded.get(name), of_section) for name, pair in sections.items()
    ]
    rows += [
        text_loss_row(task.name, _pair(directory, task.name), recipe.seed) for task in suite.texts
    ]
    rows += [bias_row(task.name, _pair(directory, task.name), of_bias) for task in suite.bias]
    return rows + [
        kl_row(task.name, _pair(directory, task.name), recipe.seed) for task in suite.openings
    ]


def _pair(directory: RunDirectory, task: str) -> tuple[Any, Any]:
    return directory.results("base", task), directory.results("tuned", task)
