"""Compares a run's training data with its evaluation sets and records the overlaps."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from burnish.evaluation.contamination import LEAKAGE, Text, find_leakage, leaks, text_of, texts_of
from burnish.evaluation.suite import Suite
from burnish.progress import counts_to
from burnish.recipe.schema import Recipe
from burnish.runs.directory import RunDirectory
from burnish.runs.overlaps import Leakage


@counts_to("contamination check")
def record_leakage(directory: RunDirectory, recipe: Recipe, suites: Sequence[Suite]) -> Leakage:
    """Write `leakage.json`, and a finding for each evaluation set that overlaps training data."""
    leakage = leakage_of(directory, recipe, suites)
    directory.write_leakage(leakage)
    others = [finding for finding in directory.findings() if finding.kind != LEAKAGE]
    directory.write_findings([*others, *leaks(leakage)])
    return leakage


def leakage_of(
    directory: RunDirectory,
    recipe: Recipe,
    suites: Sequence[Suite],
    also: Mapping[str, Iterable[Text]] = MappingProxyType({}),
) -> Leakage:
    """Compare the training rows (and those in `also`) with the test rows and the suites."""
    tasks = ("", *recipe.tasks)
    judging = {
        f"{task}.test" if task else "test": [text_of(e) for e in directory.split("test", task)]
        for task in tasks
    }
    for suite in suites:
        judging |= {task.name: texts_of(task) for task in suite.tasks}
    return find_leakage({**learnt_rows(directory, recipe), **also}, judging)


def learnt_rows(directory: RunDirectory, recipe: Recipe) -> dict[str, Iterator[Text]]:
    """All rows that the run's model was trained on, healing included, by set; read lazily."""
    learnt: dict[str, Iterator[Text]] = {
        f"{task}.{split}" if task else split: map(text_of, directory.stream(split, task))
        for task in ("", *recipe.tasks)
        for split in ("train", "validation")
    }
    if recipe.replay.rows:
        learnt["replay"] = map(text_of, directory.stream("replay"))
    for path in sorted(directory.path.glob("heal/*/manifest.json")):
        attempt = RunDirectory(
            path.parent
        )  # trained on the run's rows, or on conversations of the base
        own = ["replay"] if (path.parent / "data" / "replay.jsonl").exists() else ["train"]
        learnt |= {f"{path.parent.name}.{one}": map(text_of, attempt.stream(one)) for one in own}
    return learnt
