"""Loads the general suites of a recipe: built in, from a file, or a task of lm-eval-harness."""

from collections import Counter
from collections.abc import Sequence

from burnish.errors import DataError
from burnish.evaluation.levels import registry
from burnish.evaluation.levels.build import build_suite
from burnish.evaluation.lm_eval import load_harness
from burnish.evaluation.suite import LEVELS, Suite, load_suite
from burnish.recipe.files import HARNESS
from burnish.runs.levels import LevelChoice

_SEEDED = f"{LEVELS}:"
_LARGEST_SEED = 99_999


def load_suites(names: Sequence[str], choices: Sequence[LevelChoice] = ()) -> list[Suite]:
    """Load one suite per name: `core`, `my.jsonl`, `lm_eval:arc_easy`, `lm_eval:path/to/task.yaml`.

    `levels`, or `levels:7` for the items of seed 7, needs the levels that were chosen for the base
    model. Without its choice the suite has no sections yet.

    Raises:
        DataError: a suite cannot be loaded, or two have the same name, also in the results.
    """
    suites = [_load(name, choices) for name in names]
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


def seed_of(name: str) -> int | None:
    """The seed of the items of a suite `levels` or `levels:SEED`; None for other suites.

    Raises:
        DataError: what follows the colon is not a seed.
    """
    if name == LEVELS:
        return 0
    if not name.startswith(_SEEDED):
        return None
    text = name.removeprefix(_SEEDED)
    if not (text.isascii() and text.isdigit() and int(text) <= _LARGEST_SEED):
        raise DataError(
            f"the suite {name!r} has the seed {text!r}, which is not a whole number from 0 to "
            f"{_LARGEST_SEED}",
            f"use {LEVELS}, or a seed as in {_SEEDED}7",
            code="invalid_value",
            key="evaluate.general",
            value=name,
        )
    return int(text)


def _load(name: str, choices: Sequence[LevelChoice]) -> Suite:
    if name.startswith(HARNESS):
        return load_harness(name.removeprefix(HARNESS))
    if (seed := seed_of(name)) is None:
        return load_suite(name)
    suite = f"{LEVELS}-{seed}" if seed else LEVELS
    chosen = next((one for one in choices if one.suite == suite), None)
    if chosen is None:
        return Suite(suite, [], chosen=False)
    return build_suite(chosen, registry.SECTIONS)
