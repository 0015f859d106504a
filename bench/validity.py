"""Does the core suite say of a model what public benchmarks say of it?

    python bench/validity.py [--items 300] [--adapters NAME ...] [--picture FILE.png]

Trains adapters of different damage, from nothing lost to ruined: other learning rates, ranks,
lengths, rows and methods. Measures each and the base on the core suite (accuracy: the mean over its
sections, also over those scored by likelihood and those generated alone; text loss: the mean over
its kinds of prose, nats a token) and on public benchmarks: the accuracy on HellaSwag (by length),
PIQA, ARC easy and BLiMP, the probability of LAMBADA's last word, and the loss on WikiText-2 in
pieces of 300 characters. Prints the changes and, over the adapters, Spearman's correlation of the
suite's accuracies with the mean change in points of the first five and of its text loss with
WikiText-2's; `--picture` draws both. What is measured, each section by itself, is kept in the cache
folder, so an interrupted bench goes on; `--again` measures anew.
"""

import argparse
import json
import math
import statistics
import string
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from burnish.data.load import load
from burnish.evaluation.suite import load_suite
from burnish.evaluation.tasks import ChoiceItem, ChooseTask, Task, TextLossTask
from burnish.models.cache import cache_folder
from burnish.models.interface import Choice
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model
from burnish.pipeline.verbs import open_tuned, train
from burnish.recipe.schema import load_recipe
from burnish.runs.atomic import write_atomic
from burnish.runs.directory import RunDirectory
from burnish.training.schedule import automatic_rate

DATA = Path(__file__).parents[2] / "shared" / "data"
RECIPE = Path(__file__).parents[1] / "recipes" / "support-routing" / "recipe.yaml"
MODEL = "smollm2-135m"
# What is held against what.
PAIRS = {
    "accuracy": ("core", "accuracies"),
    "text loss": ("core text", "wikitext2"),
    "scored accuracy": ("scored", "accuracies"),
    "generated accuracy": ("generated", "accuracies"),
}
# Steps, times the automatic rate, rows to learn, other settings: from nothing lost to ruined.
ADAPTERS: dict[str, tuple[int, float, str, dict[str, Any]]] = {
    "routing-4x": (12, 4, "support-routing", {}),
    "routing-tenth": (12, 0.1, "support-routing", {}),
    "routing-12x": (12, 12, "support-routing", {}),
    "routing-1x": (24, 1, "support-routing", {}),
    "snips-rank-4": (24, 2, "snips", {"lora": {"rank": 4}}),
    "sql-rank-64": (16, 4, "wikisql_small", {"lora": {"rank": 64}}),
    "dolly": (16, 1, "dolly_sample", {}),
    "medicine-6x": (8, 6, "medquad", {}),
    "reviews-full": (12, 1, "vader_reviews", {"method": "full"}),
    "routing-full-6x": (12, 6, "support-routing", {"method": "full"}),
    "sql-ia3-4x": (16, 4, "wikisql_small", {"method": "ia3"}),
    "snips-last-3x": (16, 3, "snips", {"method": "last-n"}),
    "routing-2x": (24, 2, "support-routing", {}),
}
ACCURACIES = ("hellaswag", "piqa", "arc_easy", "blimp", "lambada")
# Sections of the suite whose answers are written, not chosen by likelihood.
GENERATED = ("following", "questions", "roles", "answering", "declining", "languages")
# Points, or nats a token, of one measure under one model.
Measure = Callable[[LanguageModel], float]


def rows(name: str, split: str, count: int) -> list[dict[str, Any]]:
    """Spread over the whole file, which may be sorted."""
    lines = (DATA / name / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        json.loads(lines[place * len(lines) // count]) for place in range(min(count, len(lines)))
    ]


def measures(count: int) -> dict[str, Measure]:
    """Accuracy and text loss of the suite first; the others are what they are held against."""
    suite = load_suite("core")
    return {
        **{
            section.name: partial(mean_score, tasks=[section], times=100)
            for section in suite.sections
        },
        "core text": lambda model: mean_score(model, suite.texts, 1),
        "hellaswag": choices("hellaswag", "validation", "{}", count, by_length=True),
        "piqa": choices("piqa", "validation", "Question: {}\nAnswer:", count),
        "arc_easy": choices("arc_easy", "test", "Question: {}\nAnswer:", count),
        "blimp": choices("blimp", "test", "", count),
        "lambada": last_words(count),
        "wikitext2": lambda model: mean_score(model, [wikitext(count)], 1),
    }


def choices(name: str, split: str, context: str, count: int, *, by_length: bool = False) -> Measure:
    space = " " if context else ""
    items = [
        ChoiceItem(
            str(number),
            context.format(row["question"]),
            tuple(f"{space}{choice}" for choice in row["choices"]),
            row["answer"],
        )
        for number, row in enumerate(rows(name, split, count))
    ]
    task = ChooseTask(name, items, by_length)
    return lambda model: mean_score(model, [task], 100)


def mean_score(model: LanguageModel, tasks: list[Task] | tuple[Task, ...], times: float) -> float:
    """Mean over the tasks of the mean over their items."""
    found = [
        statistics.mean(result.score for result in task.answer(model, 0, len(task)))
        for task in tasks
    ]
    return times * statistics.mean(found)


def last_words(count: int) -> Measure:
    items = [Choice(row["prompt"], (row["completion"],)) for row in rows("lambada", "test", count)]
    return lambda model: (
        100 * statistics.mean(math.exp(found.logprobs[0]) for found in model.score(items))
    )


def wikitext(count: int) -> TextLossTask:
    """Paragraphs of at least 300 characters, cut there."""
    texts = [row["text"] for row in rows("wikitext2", "valid", 60)]
    parts = [
        part.strip() for text in texts for part in text.split("\n") if len(part.strip()) >= 300
    ]
    chosen = [parts[place * len(parts) // count] for place in range(min(count, len(parts)))]
    return TextLossTask("wikitext2", [(str(n), part[:300]) for n, part in enumerate(chosen)])


def trained(
    folder: Path,
    name: str,
    steps: int,
    times: float,
    source: str = "support-routing",
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> RunDirectory:
    """A run of some steps at a multiple of the automatic rate, nothing held back."""
    recipe = load_recipe(RECIPE)
    data: dict[str, Any] = {}
    if source != "support-routing":
        test = {"vader_reviews": "amazon_test", "snips": "test"}.get(source)
        train_file = DATA / source / ("amazon_train" if source == "vader_reviews" else "train")
        data = {"data": {
            "train": str(train_file.with_suffix(".jsonl")),
            "group_by": None,
            "system": None,
            **({"test": str(DATA / source / f"{test}.jsonl")} if test else {}),
        }}  # fmt: skip
    method = settings.get("method", recipe.method)
    hidden = int(load_model(MODEL, "cpu").network.config.hidden_size)
    count = len(load(load_recipe(RECIPE, data).data, recipe.seed).train)
    return train(
        RECIPE,
        quiet=True,
        name=name,
        output=folder,
        device="cpu",
        training={
            "learning_rate": times * automatic_rate(method, hidden),
            "epochs": (steps - 0.5) / math.ceil(count / recipe.training.batch_size),
            "lr_scheduler": "constant",
            "evaluations": 0,  # the last weights are kept, not the best
            "checkpoints": 1,
            "max_length": 256,
            "preflight": False,
        },
        replay={"rows": 0},  # what would keep the damage small
        evaluate={"target": ["exact_match"]},
        **data,
        **settings,
    )


def adapter(folder: Path, name: str) -> LanguageModel:
    return open_tuned(trained(folder, name, *ADAPTERS[name]))


def measured(name: str, by: dict[str, Measure], folder: Path, *, again: bool) -> dict[str, float]:
    """Each measure of the base or of an adapter, which is trained only where one is missing."""
    path = folder / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() and not again else {}
    if missing := [key for key in by if key not in known]:
        with tempfile.TemporaryDirectory() as place:
            model = load_model(MODEL, "cpu") if name == "base" else adapter(Path(place), name)
            for key in missing:
                known[key] = by[key](model)
                folder.mkdir(parents=True, exist_ok=True)
                write_atomic(path, json.dumps(known))
    return {key: float(known[key]) for key in by}


def summary(found: dict[str, float]) -> dict[str, float]:
    """Means over the suite's sections, all and of either kind, and over the public accuracies."""
    sections = {name: value for name, value in found.items() if name.startswith("core.")}
    written = [value for name, value in sections.items() if name.split(".")[-1] in GENERATED]
    scored = [value for name, value in sections.items() if name.split(".")[-1] not in GENERATED]
    return {
        "core": statistics.mean(sections.values()),
        "scored": statistics.mean(scored),
        "generated": statistics.mean(written),
        **{name: value for name, value in found.items() if name not in sections},
        "accuracies": statistics.mean(found[name] for name in ACCURACIES),
    }


def print_line(label: str, values: dict[str, float]) -> None:
    print(f"{label:18}" + "".join(f"{value:11.2f}" for value in values.values()), flush=True)


def correlations(found: dict[str, dict[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Spearman's, of the suite's changes with those of the public sets, and their intervals.

    The interval is the percentile bootstrap's over adapters, 95%.
    """
    draws = np.random.default_rng(0).integers(len(found), size=(2000, len(found)))
    told = {}
    for kind, (own, other) in PAIRS.items():
        values = np.array([(row[own], row[other]) for row in found.values()])
        drawn = [spearmanr(*values[draw].T)[0] for draw in draws if len(set(draw)) > 1]
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        told[kind] = (float(spearmanr(*values.T)[0]), float(low), float(high))
    return told


def draw(found: dict[str, dict[str, float]], path: Path) -> None:
    """Both correlations, an adapter a letter, the least damaged first."""
    import matplotlib.pyplot as plt

    ranked = sorted(found, key=lambda name: -found[name]["core"])
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.6), layout="constrained")
    points = "public sets: mean change of accuracy, points"
    kinds = (
        ("scored accuracy", "suite: change of the scored sections, points", points),
        ("accuracy", "suite: change of the mean of all sections, points", points),
        ("text loss", "suite: change of text loss, nats a token",
         "WikiText-2: change, nats a token"),
    )  # fmt: skip
    for axis, (kind, label, public) in zip(axes, kinds, strict=True):
        own, other = PAIRS[kind]
        rho, low, high = correlations(found)[kind]
        for letter, name in zip(string.ascii_lowercase, ranked, strict=False):
            place = (found[name][own], found[name][other])
            axis.scatter(*place, s=22, color="tab:blue", label=f"{letter}  {name}")
            axis.annotate(letter, place, xytext=(4, 3), textcoords="offset points")
        axis.set(xlabel=label, ylabel=public, title=f"Spearman {rho:.2f} ({low:.2f} to {high:.2f})")
        axis.grid(alpha=0.3)
    for scale in (axes[2].set_xscale, axes[2].set_yscale):  # from nothing to ruin
        scale("symlog", linthresh=0.1)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", handlelength=0, markerscale=0)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--adapters", nargs="+", choices=list(ADAPTERS), default=list(ADAPTERS))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"There is no folder {DATA} with the data sets to measure on.")
    by, folder = measures(given.items), cache_folder() / "validity" / f"items-{given.items}"
    base = summary(measured("base", by, folder, again=given.again))
    print(f"{'':18}" + "".join(f"{name:>11}" for name in base))
    print_line("base", base)
    found = {}
    for name in given.adapters:
        own = summary(measured(name, by, folder, again=given.again))
        found[name] = {key: own[key] - base[key] for key in base}
        print_line(name, found[name])
    if len(found) > 2:
        for kind, (rho, low, high) in correlations(found).items():
            print(f"{kind:18} Spearman {rho:.2f} ({low:.2f} to {high:.2f}), {len(found)} adapters")
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
