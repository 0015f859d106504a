"""What a run learnt, held against what judges it: the leakage certificate of its folder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from burnish.evaluation.contamination import LEAKAGE, Text, find_leakage, leaks, text_of, texts_of
from burnish.evaluation.suite import Suite
from burnish.progress import counts_to
from burnish.recipe.schema import Recipe
from burnish.runs.directory import RunDirectory
from burnish.runs.overlaps import Leakage


@counts_to("contamination check")
def look_for_leakage(directory: RunDirectory, recipe: Recipe, suites: Sequence[Suite]) -> Leakage:
    """Keeps what `leakage_of` finds: `leakage.json`, and a finding for each set that judges and was
    learnt from."""
    leakage = leakage_of(directory, recipe, suites)
    directory.write_leakage(leakage)
    findings = [found for found in directory.findings() if found.kind != LEAKAGE]
    directory.write_findings([*findings, *leaks(leakage)])
    return leakage


def leakage_of(
    directory: RunDirectory,
    recipe: Recipe,
    suites: Sequence[Suite],
    also: Mapping[str, Iterable[Text]] = MappingProxyType({}),
) -> Leakage:
    """Compares the rows of the splits, and others learnt `also`, with each other and the suites."""
    tasks = ("", *recipe.tasks)
    judging = {
        f"{task}.test" if task else "test": [text_of(e) for e in directory.split("test", task)]
        for task in tasks
    }
    for suite in suites:
        judging |= {task.name: texts_of(task) for task in suite.tasks}
    return find_leakage({**learnt_rows(directory, recipe), **also}, judging)


def learnt_rows(directory: RunDirectory, recipe: Recipe) -> dict[str, Iterator[Text]]:
    """What the run's model has seen, healing included, by the name of its set; read when used."""
    learnt: dict[str, Iterator[Text]] = {
        f"{task}.{split}" if task else split: map(text_of, directory.stream(split, task))
        for task in ("", *recipe.tasks)
        for split in ("train", "validation")
    }
    if recipe.replay.rows:
        learnt["replay"] = map(text_of, directory.stream("replay"))
    for path in sorted(directory.path.glob("heal/*/manifest.json")):
        attempt = RunDirectory(path.parent)  # on the run's rows, or on what the base wrote
        own = ["replay"] if (path.parent / "data" / "replay.jsonl").exists() else ["train"]
        learnt |= {f"{path.parent.name}.{one}": map(text_of, attempt.stream(one)) for one in own}
    return learnt
