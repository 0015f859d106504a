"""Loads the general suites of a recipe: built in, from a file, or a task of lm-eval-harness."""

from collections import Counter
from collections.abc import Sequence

from burnish.errors import DataError
from burnish.evaluation.lm_eval import load_harness
from burnish.evaluation.suite import Suite, load_suite
from burnish.recipe.files import HARNESS


def load_suites(names: Sequence[str]) -> list[Suite]:
    """Load one suite per name: `core`, `my.jsonl`, `lm_eval:arc_easy`, `lm_eval:path/to/task.yaml`.

    Raises:
        DataError: a suite cannot be loaded, or two have the same name, also in the results.
    """
    suites = [_load(name) for name in names]
    for name, count in Counter(suite.name for suite in suites).items():
        if count > 1:
            raise DataError(
                f"evaluate.general has {count} suites with the name {name}",
                "remove one of them, or rename its file",
                code="duplicate_name",
                key="evaluate.general",
                name=name,
                count=count,
            )
    return suites


def _load(name: str) -> Suite:
    return (
        load_harness(name.removeprefix(HARNESS)) if name.startswith(HARNESS) else load_suite(name)
    )
