"""Does the core suite order models by what they forgot as public benchmarks do?

    python bench/forgetting_order.py [--items 300] [--steps 12] [--times 1 4 12]

Trains adapters on the support-routing rows that differ in the learning rate alone (`--times` the
automatic one), so that each does more damage than the one before, and measures them and the base
model on the core suite (mean over its sections) and on HellaSwag, PIQA, ARC easy and LAMBADA. All
columns are points. The suite and the benchmarks of choices have accuracy in percent (HellaSwag by
length); LAMBADA has 100 times the mean probability of the last word, which is the accuracy of one
word drawn at temperature 1. `--items` limits each benchmark and each section of the suite. Prints
the table and keeps nothing.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from burnish.data.load import load
from burnish.evaluation.suite import load_suite
from burnish.evaluation.tasks import ChoiceItem, ChooseTask, Task
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model
from burnish.models.verbs import Choice
from burnish.pipeline import open_tuned, train
from burnish.recipe import load_recipe
from burnish.run_directory import RunDirectory
from burnish.training.schedule import automatic_rate

DATA = Path(__file__).parents[2] / "shared" / "data"
RECIPE = Path(__file__).parents[1] / "recipes" / "support-routing" / "recipe.yaml"
# Points of one benchmark under one model.
Measure = Callable[[LanguageModel], float]


def rows(name: str, split: str, count: int) -> list[dict[str, Any]]:
    lines = (DATA / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:count]]


def measures(count: int) -> dict[str, Measure]:
    """The core suite first; the others are what it is held against."""
    return {
        "core": core(count),
        "hellaswag": choices("hellaswag", "validation", "{}", count, by_length=True),
        "piqa": choices("piqa", "validation", "Question: {}\nAnswer:", count),
        "arc_easy": choices("arc_easy", "test", "Question: {}\nAnswer:", count),
        "lambada": last_words(count),
    }


def core(count: int) -> Measure:
    sections = load_suite("core").sections
    return lambda model: statistics.mean(accuracy(model, section, count) for section in sections)


def choices(name: str, split: str, context: str, count: int, *, by_length: bool = False) -> Measure:
    items = [
        ChoiceItem(
            str(number),
            context.format(row["question"]),
            tuple(f" {choice}" for choice in row["choices"]),
            row["answer"],
        )
        for number, row in enumerate(rows(name, split, count))
    ]
    task = ChooseTask(name, items, by_length)
    return lambda model: accuracy(model, task, count)


def accuracy(model: LanguageModel, task: Task, count: int) -> float:
    results = task.answer(model, 0, count)
    return 100 * statistics.mean(result.score for result in results)


def last_words(count: int) -> Measure:
    items = [Choice(row["prompt"], (row["completion"],)) for row in rows("lambada", "test", count)]
    return lambda model: (
        100 * statistics.mean(math.exp(found.logprobs[0]) for found in model.score(items))
    )


def trained(folder: Path, times: float, steps: int) -> RunDirectory:
    recipe = load_recipe(RECIPE)
    count = len(load(recipe.data, recipe.seed).train)
    an_epoch = math.ceil(count / recipe.training.batch_size)
    training = {
        "learning_rate": times * base_rate(),
        "epochs": (steps - 0.5) / an_epoch,  # the loop rounds up to a whole step
        "schedule": "constant",
        "evaluations": 0,  # the last weights are kept, not the best
        "checkpoints": 1,
    }
    return train(
        RECIPE,
        quiet=True,
        name=f"times-{times:g}",
        output=folder,
        device="cpu",
        training=training,
        replay={"rows": 0},  # what would keep the damage small
    )


def base_rate() -> float:
    model = load_model(load_recipe(RECIPE).model, "cpu")
    return automatic_rate("lora", int(model.network.config.hidden_size))


def points(model: LanguageModel, by: dict[str, Measure]) -> dict[str, float]:
    return {name: measure(model) for name, measure in by.items()}


def drops(base: dict[str, float], tuned: dict[str, float]) -> dict[str, float]:
    """Points lost; `outside` is the mean over the benchmarks that are not ours."""
    lost = {name: base[name] - tuned[name] for name in base}
    return lost | {"outside": statistics.mean(lost[name] for name in lost if name != "core")}


def print_orders(found: Sequence[dict[str, float]]) -> None:
    """Rank correlation of the drops, core against each other column."""
    core_drops = [lost["core"] for lost in found]
    for name in list(found[0])[1:]:
        others = [lost[name] for lost in found]
        if min(len(set(core_drops)), len(set(others))) < 2:
            print(f"core and {name:10} no order, the drops are all equal")
            continue
        rho = spearmanr(core_drops, others).statistic
        same = "same" if math.isclose(rho, 1) else "another"
        print(f"core and {name:10} {same} order, Spearman {rho:.2f}")


def print_line(label: str, values: dict[str, float]) -> None:
    print(f"{label:18}" + "".join(f"{value:11.2f}" for value in values.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--times", type=float, nargs="+", default=[1, 4, 12])
    given = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"There is no folder {DATA} with the data sets to measure on.")
    by = measures(given.items)
    print(f"{'points':18}" + "".join(f"{name:>11}" for name in by))
    base = points(load_model(load_recipe(RECIPE).model, "cpu"), by)
    print_line("base", base)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for times in given.times:
            run = trained(Path(folder), times, given.steps)
            tuned = points(open_tuned(run), by)
            print_line(f"{times:g} times the rate", tuned)
            found.append(drops(base, tuned))
    print(f"{'drop':18}" + "".join(f"{name:>11}" for name in found[0]))
    for times, lost in zip(given.times, found, strict=True):
        print_line(f"{times:g} times the rate", lost)
    print_orders(found)


if __name__ == "__main__":
    main()
