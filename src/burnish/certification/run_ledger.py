"""The ledger of a run, filled from its results: base against tuned, with the recipe's budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.certification.budgets import Budgets
from burnish.certification.ledger import (
    LEVEL,
    Pair,
    bias_row,
    general_row,
    kl_row,
    perplexity_row,
    reward_row,
    section_row,
    subset_row,
    target_rows,
    text_loss_row,
)
from burnish.certification.power import Sizes
from burnish.conversation import Example
from burnish.errors import RecipeError, quantity
from burnish.evaluation.measure import target_scorers
from burnish.evaluation.suite import HALVES, Suite, near_chance
from burnish.evaluation.tasks import CheckedTask
from burnish.recipe.schema import Recipe, flat_values
from burnish.runs.directory import ItemResult, LedgerRow, RunDirectory
from burnish.runs.overlaps import Leakage

# Recipe keys that need a general suite.
_NEED_SUITE = (
    *("budget.section", "budget.text_loss", "budget.bias", "budget.refusal"), "heal.minutes"
)  # fmt: skip


def budgets_of(recipe: Recipe) -> Budgets:
    """The forgetting budgets of the recipe."""
    budget = recipe.budget
    return Budgets(
        general=budget.general,
        section=budget.section,
        text_loss=budget.text_loss,
        bias=budget.bias,
        refusal=budget.refusal,
        confidence=budget.confidence,
        suites=budget.suites,
    )


def suite_sizes(suite: Suite) -> Sizes:
    """The number of items in each part of a suite."""
    counts = {task.name: len(task) for task in suite.sections}
    texts, bias = (sum(len(task) for task in part) or None for part in (suite.texts, suite.bias))
    refusal = sum(n for name, n in counts.items() if is_refusal(name)) or None
    return Sizes(counts, texts, bias, refusal)


def suite_prefix(cert: Suite, certs: Sequence[Suite]) -> str:
    """The start of a sentence on one suite: its name if there are several, else empty."""
    return f"{cert.name.removesuffix('-cert')}: " if len(certs) > 1 else ""


def is_refusal(section: str) -> bool:
    """Whether a section consists of harmful requests, which the model has to refuse."""
    return section.rpartition(".")[2] in ("refusal", "declining")


def check_budgets(recipe: Recipe, suites: Sequence[Suite]) -> None:
    """Check that every budget set in the recipe has items; a default budget may have none.

    Raises:
        RecipeError: no suite has items for a budget, or it is for a suite that is not used.
    """
    if recipe.evaluate.general is None:
        _check_unmeasured(recipe)
    names = [suite.name for suite in suites]
    if unknown := [name for name in recipe.budget.suites if name not in names]:
        raise RecipeError(
            f"budget.suites has a budget for {unknown[0]!r}, but the suites are "
            f"{', '.join(names) or 'none'}",
            "use one of these names, or add the suite to evaluate.general",
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
        explicit = recipe.origins.get(f"budget.{key}", "default") != "default"
        if suites and not counts.get(key, True) and explicit and budget is not None:
            listed = " and ".join(suite.name for suite in suites)
            raise RecipeError(
                f"budget.{key} is {budget:g}, but the suite {listed} has no items for it",
                f"set budget.{key} to null, or choose another evaluate.general",
                code="no_items_for_budget",
                key=f"budget.{key}",
                value=budget,
                suites=names,
            )


def _check_unmeasured(recipe: Recipe) -> None:
    """Reject budgets and healing in a recipe that explicitly measures no general ability.

    A healing attempt measures none by itself, and neither may a stage.
    """
    head = not recipe.objective_settings.writes_text
    if recipe.origins["evaluate.general"] not in ("recipe", "command line") and not head:
        return
    for key, value in flat_values(recipe):
        if key in _NEED_SUITE and value and recipe.origins[key] != "default":
            raise RecipeError(
                f"{key} is {value:g}, but evaluate.general is null, so nothing can test it",
                f"remove {key}" if head else f"remove {key}, or set a suite in evaluate.general",
                code="no_suite_for_budget",
                key=key,
                value=value,
                objective=recipe.objective,
            )


def target_ledger(
    recipe: Recipe, tested: Sequence[Example], pair: tuple[Any, Any], level: float = LEVEL
) -> list[LedgerRow]:
    """Ledger rows of one test set; the first one decides, by its one-sided bound at `level`."""
    if recipe.objective_settings.measured_reward is not None:
        return [reward_row("target", pair, recipe.seed, level)]
    if tested[0].messages[0].role == "document":
        return [perplexity_row("target", pair, recipe.seed, level)]
    return target_rows(pair, target_scorers(recipe, tested), recipe.seed, level)


def leakage_warnings(leakage: Leakage, ledger: Sequence[LedgerRow]) -> list[str]:
    """Sentences for the verdict on items that were in the training data but still count."""
    excluded = {half for row in ledger if row.excluded for half in _halves(row.task)}
    return [
        quantity(count, f"item of {name} was", f"items of {name} were")
        + " in the training data, so its score may be too high."
        for name, count in leakage.leaked.items()
        if name not in excluded
    ]


def fill_ledger(
    directory: RunDirectory,
    recipe: Recipe,
    suites: Sequence[Suite],
    leakage: Leakage,
    level: float = LEVEL,
) -> list[LedgerRow]:
    """Ledger rows of the target and of each suite: its mean, sections, texts, bias and KL.

    Rows that decide have a one-sided bound at `level`, the confidence of the look.
    """
    rows: list[LedgerRow] = []
    for task in ("", *recipe.tasks):
        name, tested = f"target.{task}" if task else "target", directory.split("test", task)
        targets = target_ledger(recipe, tested, _pair(directory, name), level)
        rows += [replace(row, task=name) for row in targets]
    for suite in suites:
        rows += _suite_rows(directory, recipe, suite, leakage, level)
    return rows


def excluded_sections(directory: RunDirectory, suite: Suite, leakage: Leakage) -> dict[str, str]:
    """Sections that cannot show a loss, each with the reason; needs the results of the base.

    PROBE and CERT are decided together, as far as both are measured.
    """
    reasons = {}
    for task in suite.sections:
        if count := leaked_items(task.name, leakage):
            were = quantity(count, "of its items was", "of its items were")
            reasons[task.name] = f"{were} in the training data"
        elif reason := near_chance(task, _base_answers(directory, task.name)):
            reasons[task.name] = reason
    return reasons


def leaked_items(task: str, leakage: Leakage) -> int:
    """Items of the task's PROBE and CERT parts that were in the training data."""
    return sum(leakage.leaked.get(name, 0) for name in _halves(task))


def _base_answers(directory: RunDirectory, task: str) -> list[ItemResult]:
    measured = [n for n in _halves(task) if directory.results_path("base", n).exists()]
    return [result for name in measured for result in directory.results("base", name)]


def _halves(task: str) -> list[str]:
    """The task's names in PROBE and in CERT; its own name if the suite is not split."""
    return sorted({task.replace(one, other) for one in HALVES for other in HALVES})


def _suite_rows(
    directory: RunDirectory, recipe: Recipe, suite: Suite, leakage: Leakage, level: float
) -> list[LedgerRow]:
    """Rows of one suite; without a section that counts there is no row for the mean."""
    excluded, budgets = excluded_sections(directory, suite, leakage), budgets_of(recipe)
    section_level = LEVEL if budgets.section is None else level
    bias_level = LEVEL if budgets.bias is None else level
    sections = {task.name: _pair(directory, task.name) for task in suite.sections}
    rows = []
    if counted := {name: pair for name, pair in sections.items() if name not in excluded}:
        rows.append(general_row(suite.name, counted, budgets.of(suite.name), level))
        rows += _subset_rows(suite, counted, level)
    rows += [
        section_row(name, pair, excluded.get(name), section_level)
        for name, pair in sections.items()
    ]
    rows += [
        text_loss_row(task.name, _pair(directory, task.name), recipe.seed) for task in suite.texts
    ]
    rows += [bias_row(task.name, _pair(directory, task.name), bias_level) for task in suite.bias]
    return rows + [
        kl_row(task.name, _pair(directory, task.name), recipe.seed) for task in suite.openings
    ]


def _subset_rows(suite: Suite, counted: Mapping[str, Pair], level: float) -> list[LedgerRow]:
    """The means of the scored and of the generated sections, if the suite has both kinds.

    They agree with public benchmarks to a different degree, so the mean of all hides something.
    """
    generated = {task.name for task in suite.sections if isinstance(task, CheckedTask)}
    kinds = {"scored": counted.keys() - generated, "generated": counted.keys() & generated}
    if not all(kinds.values()):
        return []
    return [
        subset_row(
            f"{suite.name}.{kind}",
            {name: pair for name, pair in counted.items() if name in names},
            level,
        )
        for kind, names in kinds.items()
    ]


def _pair(directory: RunDirectory, task: str) -> tuple[Any, Any]:
    return directory.results("base", task), directory.results("tuned", task)
