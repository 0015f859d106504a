"""The general suites of a run, with the levels that suit its base model."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from burnish.evaluation.levels import registry
from burnish.evaluation.levels.choose import choice_of
from burnish.evaluation.load_suite import load_suites, seed_of
from burnish.evaluation.measure import results_cache
from burnish.evaluation.runner import run_task
from burnish.evaluation.suite import Section, Suite
from burnish.models.from_run import load_base
from burnish.models.language_model import LanguageModel
from burnish.progress import Bars, counts_to
from burnish.recipe.schema import Recipe
from burnish.runs.directory import ItemResult, RunDirectory
from burnish.runs.levels import LevelChoice

OpenBase = Callable[[], AbstractContextManager[LanguageModel]]


def run_suites(
    directory: RunDirectory, recipe: Recipe, open_base: OpenBase, bars: Bars
) -> list[Suite]:
    """Load the suites of a run; the levels of the suite `levels` are chosen once and written down.

    `open_base` gives the base model, and is called only if levels have to be chosen.

    Raises:
        DataError: a suite cannot be loaded, or the base model is at chance at every level.
    """
    names = recipe.evaluate.general or ()
    suites = load_suites(names, directory.levels())
    if all(suite.chosen for suite in suites):
        return suites
    directory.write_levels(_choose(directory, names, suites, open_base, bars))
    return load_suites(names, directory.levels())


@contextmanager
def untrained_base(recipe: Recipe) -> Iterator[LanguageModel]:
    """The recipe's base model, loaded for the `with` block alone."""
    yield load_base(recipe)


@counts_to("base answers")
def _choose(
    directory: RunDirectory,
    names: tuple[str, ...],
    suites: list[Suite],
    open_base: OpenBase,
    bars: Bars,
) -> list[LevelChoice]:
    pairs = [(suite.name, seed_of(name)) for name, suite in zip(names, suites, strict=True)]
    most = sum(len(section.levels) for section in registry.SECTIONS)
    most *= sum(seed is not None for _, seed in pairs)
    with open_base() as base, bars.items("levels", most) as advance:

        def answers(task: Section) -> list[ItemResult]:
            path = directory.results_path("base", task.name)
            results = run_task(base, task, path, cache=results_cache())
            advance(1)
            return results

        return [
            choice_of(
                registry.SECTIONS, answers, base.context_length, base.fingerprint, (suite, seed)
            )
            for suite, seed in pairs
            if seed is not None
        ]
